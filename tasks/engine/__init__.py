"""How a stage runs: events, runtime values, state, resources, Ray. Nothing here changes a result."""
