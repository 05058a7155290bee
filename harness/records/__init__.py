"""The schema of a cell's record, and reading and comparing run files."""
