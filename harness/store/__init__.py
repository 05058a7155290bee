"""Artefacts by key, in a local folder and in a shared store."""
