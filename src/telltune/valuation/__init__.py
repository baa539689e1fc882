"""Valuation: what training examples are worth, and what is learned from them when."""
