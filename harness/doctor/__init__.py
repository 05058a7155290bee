"""Measure what this machine can resolve, and advise what would make its timings steadier."""
