"""The exporter: a trained checkpoint becomes a verified bundle."""
