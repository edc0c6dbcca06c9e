"""What the book claims, what each claim rests on, and the two pages that show it."""
