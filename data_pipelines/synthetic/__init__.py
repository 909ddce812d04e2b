"""Street scenes drawn on the fly."""
