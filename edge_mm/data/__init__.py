"""Training and evaluation data: the rendered tabletop world and its questions."""
