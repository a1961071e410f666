"""Families that are traced, not drawn, against transformers: prefill, append, single steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_mm_export.errors import UnsupportedError
from edge_mm_export.families.generic import trace_text_decoder
from edge_mm_runtime.runner import OnnxRunner

from .conftest import TINY, randomise

CONTEXT = 48
LAYERS = 2


@torch.no_grad()
def test_a_traced_decoder_gives_the_tokens_of_transformers(tmp_path: Path) -> None:
    settings = TINY | {"num_hidden_layers": LAYERS, "rotary_pct": 0.5}
    del settings["num_key_value_heads"]
    config = AutoConfig.for_model("gpt_neox", **settings)
    model = randomise(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(tmp_path)
    ir.save(trace_text_decoder(tmp_path, context=CONTEXT), tmp_path / "decoder.onnx")
    names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    state = {f"past_key_values.{name}": (f"present.{name}", (1, 4, CONTEXT, 16)) for name in names}
    with OnnxRunner(tmp_path / "decoder.onnx", 1, state) as runner:
        ids, new = list[int](), [1, 7, 20, 33, 81]
        for step in range(18):
            places = np.arange(len(ids), len(ids) + len(new))[None]
            inputs = {"input_ids": np.array([new]), "position_ids": places}
            found = runner.run(inputs)["logits"][0]
            ids += new
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
            np.testing.assert_allclose(found, logits, atol=1e-4)
            assert found.argmax() == logits.argmax()
            new = [44, 2, 95] if step == 0 else [int(logits.argmax())]


def test_windows_are_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("starcoder2", sliding_window=8).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="starcoder2: windows"):
        trace_text_decoder(tmp_path, context=CONTEXT)
