"""Draw boxes, masks, videos and contact sheets."""
