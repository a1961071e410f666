"""A vision tower in int8, weights and activations, by NNCF's post-training quantisation.

python bench/peers/openvino_quantise.py MODEL.onnx PIXELS.npy FIRST OUT: calibrated on the pictures
from FIRST on; writes OUT/model.xml.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino


def main() -> None:
    model, pixels, first, out = sys.argv[1:]
    calibration = nncf.Dataset([one[None] for one in np.load(pixels)[int(first) :]])
    quantised = nncf.quantize(
        openvino.Core().read_model(model), calibration, model_type=nncf.ModelType.TRANSFORMER
    )
    Path(out).mkdir()
    openvino.save_model(quantised, Path(out) / "model.xml")


if __name__ == "__main__":
    main()
