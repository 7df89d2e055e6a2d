"""Segment images: the public `Segmenter`, automatic masks, and the networks that need no prompts."""
