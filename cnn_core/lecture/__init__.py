"""TODO: lecture."""
