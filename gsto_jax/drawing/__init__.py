"""Image tiles, heat maps and legends."""
