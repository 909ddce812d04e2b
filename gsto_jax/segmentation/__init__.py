"""Semantic segmentation: evaluation, protocols, metrics and results."""
