"""Folders on disks and in buckets (object stores). Needs no JAX."""
