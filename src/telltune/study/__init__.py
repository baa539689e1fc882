"""Studies: methods held against one another on the same task."""
