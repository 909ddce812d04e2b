"""Inspects a folder of images and labels and proposes a config for it."""
