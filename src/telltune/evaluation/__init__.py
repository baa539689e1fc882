"""Evaluation: metrics, and how sure a score is."""
