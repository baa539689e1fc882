"""Training loop shared by all methods, which differ in data and weights."""
