"""Training: a recipe of stages, one readable loop."""
