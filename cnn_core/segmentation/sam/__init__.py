"""TODO: sam."""
