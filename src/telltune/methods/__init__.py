"""Adaptation methods, which share one protocol."""
