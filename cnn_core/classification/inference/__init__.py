"""Classify images: the public `Classifier`, model folders, views, metrics."""
