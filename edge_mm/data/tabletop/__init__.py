"""Rendered tables with everyday objects and exact ground truth; `write.make_dataset` makes them."""
