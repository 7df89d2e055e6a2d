"""Readers of the layouts in which people keep labelled images."""
