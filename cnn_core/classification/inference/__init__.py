"""TODO: inference."""
