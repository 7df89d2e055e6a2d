"""TODO: annotations."""
