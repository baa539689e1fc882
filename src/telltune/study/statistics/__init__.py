"""Statistics of studies: intervals, tests, data-saving factors, emergence."""
