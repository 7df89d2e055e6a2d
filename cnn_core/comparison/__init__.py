"""TODO: comparison."""
