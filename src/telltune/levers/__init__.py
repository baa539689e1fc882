"""Levers: ways to make training examples from abundant data or with the base model itself."""
