"""Object detection with YOLO."""
