"""Functions f: ℝᵈ → ℝ, written once in SymPy: values, derivatives, LaTeX, JavaScript, torch."""
