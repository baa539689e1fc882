"""Studies: comparisons of methods on the same tasks."""
