"""Valuation of training examples, and analysis of the order in which they are learned."""
