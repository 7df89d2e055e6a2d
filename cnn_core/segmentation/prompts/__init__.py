"""Prompts: boxes and points, read from tables and passed to a network."""
