"""What `benchmarks/speed.py` runs, a file a contestant, each in a process of its own."""
