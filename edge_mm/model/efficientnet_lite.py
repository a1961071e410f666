"""EfficientNet-Lite0, the pretrained eye: MBConv blocks without squeeze-excitation, ReLU6.

Batch normalisation is folded into the convolutions of the pretrained weights (see
models/efficientnet_lite0), so the module is convolutions and clamps only: quick to run frozen,
trivial to export. Padding is
TensorFlow's SAME, as the weights expect (Tan and Le, arXiv 1905.11946; the Lite variant:
tensorflow/tpu/models/official/efficientnet/lite, Apache-2.0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# kernel, stride, expansion, output channels, repeats
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
FEATURE_CHANNELS = (24, 40, 112, 320)  # at strides 4, 8, 16, 32


class SameConv(nn.Conv2d):
    """A convolution with bias and TensorFlow SAME padding for a stride of 1 or 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            height, width = (
                max(kernel - stride, 0) if n % stride == 0 else kernel - n % stride
                for n in x.shape[-2:]
            )
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class MBConv(nn.Module):
    """Expand 1x1, depthwise, project 1x1; residual where the shape allows."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """pixel_values [B,3,S,S] -> features at strides 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = 32
        self.taps: list[int] = []  # the last block of each stride that we read
        for kernel, stride, expansion, outputs, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(
                    MBConv(channels, outputs, kernel, stride if repeat == 0 else 1, expansion)
                )
                channels = outputs
            if outputs in FEATURE_CHANNELS:
                self.taps.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixel_values: Tensor, frozen: int = 0) -> list[Tensor]:
        """No graph is kept for the stem and the first `frozen` blocks, if any are frozen."""
        features: list[Tensor] = []
        if frozen:
            with torch.no_grad():
                x = self._through(self._stem(pixel_values), range(frozen), features)
        else:
            x = self._stem(pixel_values)
        self._through(x, range(frozen, len(self.blocks)), features)
        return features

    def _stem(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values.to(self.stem.weight.dtype))
        return F.relu6(x, inplace=True)

    def _through(self, x: Tensor, blocks: range, features: list[Tensor]) -> Tensor:
        for index in blocks:
            x = self.blocks[index](x)
            if index in self.taps:
                features.append(x)
        return x
