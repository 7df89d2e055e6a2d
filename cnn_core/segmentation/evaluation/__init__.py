"""Measure a segmenter: mask metrics, its answers to true and detected boxes, pictures."""
