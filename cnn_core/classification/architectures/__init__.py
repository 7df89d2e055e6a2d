"""TODO: architectures."""
