"""Tiny transformers models with random weights, every bias and norm weight away from its start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_runtime.decoder import decoder_inputs
from edge_mm_runtime.runner import OnnxRunner

TINY: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def randomise(model: torch.nn.Module, seed: int = 3) -> Any:
    """The model in evaluation mode, its vectors (norms, biases) drawn as well."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(0.1 * noise)
    return model.eval()


class SteppedFamily:
    """A built decoder with its cache: `feed(ids)` -> logits [V] of the last of them."""

    def __init__(self, runner: OnnxRunner, target: str, image_embeds: np.ndarray) -> None:
        self.runner, self.target, self.image_embeds = runner, target, image_embeds
        self.length = 0

    def feed(self, ids: list[int], **more: np.ndarray) -> np.ndarray:
        inputs = decoder_inputs(self.target, self.length, ids, self.image_embeds) | more
        self.length += len(ids)
        return self.runner.run(inputs)["logits"][0]


Stepper = Callable[..., SteppedFamily]


@pytest.fixture
def step(tmp_path: Path) -> Stepper:
    """`step(spec, weights, target, precision, image_embeds)`: that decoder, built and opened."""

    def make(
        spec: DecoderSpec,
        weights: Any,
        target: str,
        precision: str,
        image_embeds: np.ndarray | None = None,
    ) -> SteppedFamily:
        model = build_decoder(spec, weights, target=target, precision=precision)
        path = tmp_path / f"{target}-{precision}.onnx"
        ir.save(model, path)
        shape = (1, spec.kv_heads, spec.context, spec.head_dim)
        runner = OnnxRunner(
            path,
            1,
            {
                f"past_key_values.{layer}.{part}": (f"present.{layer}.{part}", shape)
                for layer in range(spec.layers)
                for part in ("key", "value")
            },
        )
        rows = np.zeros((1, spec.image_size), np.float32) if image_embeds is None else image_embeds
        return SteppedFamily(runner, target, rows)

    return make
