"""Statistics on arrays: ratios, verdicts, bootstrap, change points."""
