"""TODO: prompts."""
