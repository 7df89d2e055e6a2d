"""TODO: video."""
