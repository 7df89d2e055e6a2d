"""TODO: detection."""
