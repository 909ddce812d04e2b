"""Predictions on users' images and videos, and exported models."""
