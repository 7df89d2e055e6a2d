"""Train a YOLO detector with Ultralytics' trainer."""
