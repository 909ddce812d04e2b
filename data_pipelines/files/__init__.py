"""Reads files into arrays: images, tiles, archives, JSON; retries after I/O errors."""
