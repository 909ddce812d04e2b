"""Predictions for images and videos, and exported models."""
