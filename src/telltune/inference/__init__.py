"""Inference: the `Generator` protocol, and one file per engine."""
