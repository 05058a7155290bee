"""Measure deployed files in worker processes: profiles, workers, timing in pairs, noise, the latency of a cell."""
