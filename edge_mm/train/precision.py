"""The number format that the forward pass computes in."""

from __future__ import annotations

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 by itself.

    On an x86 CPU without AVX-512 a step of the shipped model in bf16 took 17 times fp32's.
    """
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
