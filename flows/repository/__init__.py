"""TODO: repository."""
