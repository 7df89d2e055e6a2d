"""Segmentation with SAM, SAM 2, FastSAM and YOLO."""
