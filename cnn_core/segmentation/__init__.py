"""TODO: segmentation."""
