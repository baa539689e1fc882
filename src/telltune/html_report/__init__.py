"""HTML reports in one file without network access: page, style, charts and number formats."""
