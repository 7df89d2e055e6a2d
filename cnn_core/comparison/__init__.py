"""Compare two runs: their parameters, metrics and answers, and whether a challenger is better."""
