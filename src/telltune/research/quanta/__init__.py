"""Quanta: what a task teaches, token by token, and in which order it is learned."""
