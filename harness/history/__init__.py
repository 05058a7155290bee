"""Follow figures over many runs, find where they changed, and show it as text, JSON and a chart."""
