"""Image tiles, heat maps and class legends."""
