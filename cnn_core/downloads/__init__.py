"""Download official weights, of torchvision and of Ultralytics."""
