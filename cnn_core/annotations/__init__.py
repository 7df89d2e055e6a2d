"""Boxes and masks as tables, and the formats in which they come and go."""
