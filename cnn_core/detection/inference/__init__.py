"""Detect objects in images: the public `Detector`, engines and exports."""
