"""The README of a model folder."""
