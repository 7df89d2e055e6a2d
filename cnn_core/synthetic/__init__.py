"""TODO: synthetic."""
