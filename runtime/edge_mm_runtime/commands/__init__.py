"""Commands of `edge-mm` that a robot needs: ask, run, doctor, check."""
