"""One run, from cells to records."""
