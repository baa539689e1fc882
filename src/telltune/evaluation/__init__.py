"""Evaluation: metrics, confidence intervals and warnings."""
