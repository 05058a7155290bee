"""Find out what this machine can resolve."""
