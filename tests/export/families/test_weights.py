"""Checkpoints in safetensors: one file, shards, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_mm_export.errors import ExportError
from edge_mm_export.weights import INDEX, SINGLE, RenamedWeights, open_weights

TENSORS = {
    "a": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "b": torch.tensor([0.25, 3.0], dtype=torch.float16),
    "c": torch.tensor([1e-9]),
}


def write_shards(folder: Path) -> None:
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors")
    save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / "two.safetensors")
    files = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize("sharded", [True, False])
def test_every_type_is_read_as_float32(tmp_path: Path, sharded: bool) -> None:
    if sharded:
        write_shards(tmp_path)
    else:
        save_file(TENSORS, tmp_path / SINGLE)
    weights = open_weights(tmp_path)
    assert sorted(weights) == ["a", "b", "c"] and len(weights) == 3
    assert "a" in weights and "d" not in weights
    for name, tensor in TENSORS.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], tensor.float().numpy())


def test_a_renamed_view_reads_under_the_other_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    weights = RenamedWeights(open_weights(tmp_path), lambda name: name.removeprefix("model."))
    assert "model.b" in weights and "model.d" not in weights
    np.testing.assert_array_equal(weights["model.b"], [0.25, 3.0])


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ExportError, match=r"lacks two\.safetensors"):
        open_weights(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    whole = (tmp_path / "two.safetensors").read_bytes()
    for kept in (0, 5, len(whole) - 3):
        (tmp_path / "two.safetensors").write_bytes(whole[:kept])
        with pytest.raises(ExportError, match=r"two\.safetensors is damaged or cut short"):
            open_weights(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"b": TENSORS["b"]}, tmp_path / "two.safetensors")
    with pytest.raises(ExportError, match=r"two\.safetensors has no tensor 'c'"):
        open_weights(tmp_path)


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ExportError, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
        open_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": "../x.safetensors"}}'])
def test_a_bad_index_and_an_empty_folder_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExportError, match=r"neither model\.safetensors nor"):
        open_weights(tmp_path)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ExportError, match=INDEX):
        open_weights(tmp_path)
