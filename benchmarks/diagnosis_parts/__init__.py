"""Faults to inject, and what they are."""
