"""TODO: model_card."""
