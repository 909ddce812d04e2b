"""Synthetic street scenes, rendered on the fly."""
