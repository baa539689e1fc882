"""Continual learning: tasks learned one after another, as in TRACE."""
