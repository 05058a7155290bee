"""Follow figures over many runs, and find where they changed."""
