"""Models in the transformers folder format: their configs as specs, their weights by our names."""
