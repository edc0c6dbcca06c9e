"""Sweeps of runs, their records and measures, and the ledger of claims that rests on them."""
