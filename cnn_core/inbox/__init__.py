"""TODO: inbox."""
