"""Declare suites: matrices, the cells that they expand into, presets, and the reading of suite files."""
