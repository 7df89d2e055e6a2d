"""TODO: drawing."""
