"""Networks as plain tensors, and counts of their operations."""
