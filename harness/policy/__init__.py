"""Parse the gate's rules, and read the earlier runs that runs are compared with."""
