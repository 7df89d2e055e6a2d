"""Builders of test data, and what several tests share."""
