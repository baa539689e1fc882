"""Training: one loop for every method; methods differ in data and weights."""
