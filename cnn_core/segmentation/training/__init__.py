"""Train a promptable segmenter: a small SAM from scratch, or the mask decoder of given weights."""
