"""Compare runs, commits and experiments."""
