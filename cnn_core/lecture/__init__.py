"""The lecture's ideas as readable code: layers by hand, what a network sees, classical baselines."""
