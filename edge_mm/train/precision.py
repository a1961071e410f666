"""The number format that the forward pass computes in."""

from __future__ import annotations

import sys

import torch


def in_bf16(asked: str, device: torch.device, *, tell: bool) -> bool:
    """Whether to compute in bf16: where that is asked for and the device has it, else in fp32."""
    if asked == "bf16" and not has_bf16(device) and tell:
        print("this processor does not multiply bf16: training in fp32", file=sys.stderr)
    return asked == "bf16" and has_bf16(device)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 by itself.

    On an x86 CPU without AVX-512 a step of the shipped model in bf16 took 17 times fp32's.
    """
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
