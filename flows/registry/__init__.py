"""The model registry: promotion, challenges, what is new, the inbox."""
