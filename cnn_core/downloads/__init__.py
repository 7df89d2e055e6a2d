"""TODO: downloads."""
