"""Sweeps of runs, their records as tables, what is measured of them, and their reproduction."""
