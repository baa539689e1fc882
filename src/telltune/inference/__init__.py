"""Inference: one `Generator` protocol and an engine a file."""
