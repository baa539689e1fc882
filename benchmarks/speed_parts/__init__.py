"""Contestants of `benchmarks/speed.py`, one per file, each run in a separate process."""
