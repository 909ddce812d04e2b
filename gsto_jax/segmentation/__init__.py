"""Semantic segmentation: task, test-time protocols, metrics and evaluation results."""
