"""Proofs by ball arithmetic that a hallucinated minimizer exists, is unique and attracts."""
