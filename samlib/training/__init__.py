"""The networks of the book and their training: data, models, losses, one loop."""
