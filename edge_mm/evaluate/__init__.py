"""Evaluation: the same questions to a checkpoint or a bundle, judged by place and by word."""
