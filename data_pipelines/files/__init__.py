"""Files to arrays: images, tiles, archives, JSON, and reads that are retried."""
