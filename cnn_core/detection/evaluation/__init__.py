"""Measure a detector: average precision, mistakes, and what its grid cells say."""
