"""Follow objects through videos with SAM 2."""
