"""Data sets and models as entries of params.yaml: `gridflow new`, `drop` and `sets`."""
