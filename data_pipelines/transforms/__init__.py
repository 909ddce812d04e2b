"""Transforms of examples, one module per task."""
