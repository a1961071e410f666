"""Where the graphs of a session run."""

from __future__ import annotations

from typing import Literal, get_args

Device = Literal["cpu", "cuda", "tensorrt", "openvino"]
DEVICES: tuple[Device, ...] = get_args(Device)
