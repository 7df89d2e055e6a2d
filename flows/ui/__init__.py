"""TODO: ui."""
