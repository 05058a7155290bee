"""Pure functions on arrays: ratios of timings, verdicts, quality with bootstrap intervals, change points."""
