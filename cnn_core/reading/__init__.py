"""TODO: reading."""
