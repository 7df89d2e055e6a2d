"""Prompts: boxes and points, read from tables and given to a network."""
