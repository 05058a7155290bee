"""Timing in processes of their own: the environment, the worker, the pool of workers, and the statistics."""
