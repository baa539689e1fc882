"""Diagnosis of failed runs by log compression, rules, past failures and, optionally, a model.

The design follows Acme (arXiv 2403.07648): log filters learned from healthy runs, then rules, then
retrieval of known failures.
"""
