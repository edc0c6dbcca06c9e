"""Critical and hallucinated points: find them, follow them in ρ, classify them."""
