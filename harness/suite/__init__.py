"""Suite files: matrices, their cells, and presets."""
