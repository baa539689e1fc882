"""Faults that `benchmarks/diagnosis.py` injects."""
