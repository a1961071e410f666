"""What the layers of a torch decoder give while it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from edge_mm_export.decoder import residual_name
from edge_mm_export.subject import FloatArray


@contextlib.contextmanager
def watching(layers: Iterable[nn.Module]) -> Iterator[dict[str, FloatArray]]:
    """By `residual_name`, the residual stream [1, S, D] after each layer of the last pass."""
    seen: dict[str, FloatArray] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output).float().numpy()

        return hook

    handles = [
        layer.register_forward_hook(keep(residual_name(index)))
        for index, layer in enumerate(layers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
