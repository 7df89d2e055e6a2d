"""Measure a segmenter: mask metrics, its masks for true and detected boxes, pictures."""
