"""The model: vision tower -> projector -> language model, with a region head that points."""
