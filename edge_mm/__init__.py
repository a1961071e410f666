"""edge_mm: train and evaluate small grounded vision-language models for robots."""
