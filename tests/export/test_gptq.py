"""GPTQ against rounding to nearest and least squares; Hessians against inputs seen in torch."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import Tokenizer

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchVision
from edge_mm.model.session import open_checkpoint
from edge_mm_export.checkpoint import EdgeMMWeights, decoder_spec
from edge_mm_export.decoder import build_decoder
from edge_mm_export.errors import ExportError
from edge_mm_export.gptq import gptq
from edge_mm_export.hadamard import rotate, rotated
from edge_mm_export.hessians import (
    Passage,
    first_states,
    gptq_weights,
    layer_hessians,
    read_passages,
    set_weight,
)
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.quantise import BlockWeight, quantise_blocks
from edge_mm_export.samples import read_samples

UNCLIPPED = (1.0,)
PLAIN = PRECISIONS["cuda"]["int4"]  # in blocks of 32, not rotated


def correlated(
    columns: int, dead: tuple[int, ...] = ()
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """(weight [48, columns], inputs [400, columns] with much in common)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, columns // 4)) @ rng.normal(size=(columns // 4, columns))
    x += 0.3 * rng.normal(size=x.shape)
    x[:, list(dead)] = 0
    return rng.normal(size=(48, columns)).astype(np.float32), x


def lost(
    weight: npt.NDArray[np.floating], packed: BlockWeight, x: npt.NDArray[np.floating]
) -> float:
    return float(np.linalg.norm(x @ (weight - packed.dequantise()).T))


@pytest.mark.parametrize("columns", [128, 100])
@pytest.mark.parametrize("scale_type", [np.float32, np.float16])
def test_outputs_lose_less_than_by_rounding(columns: int, scale_type: type) -> None:
    weight, x = correlated(columns)
    packed = gptq(weight, 2 * x.T @ x, scale_type=np.dtype(scale_type))
    nearest = quantise_blocks(weight, 4, np.dtype(scale_type))
    assert lost(weight, packed, x) < 0.5 * lost(weight, nearest, x)
    assert packed.values.shape == nearest.values.shape
    assert packed.scales.shape == nearest.scales.shape
    assert packed.values.min() >= -8 and packed.values.max() <= 7
    assert np.all(packed.scales > 0)
    np.testing.assert_array_equal(packed.scales.astype(scale_type), packed.scales)


def test_tried_scales_lose_less_than_the_widest() -> None:
    weight, x = correlated(128)
    hessian = x.T @ x
    widest = gptq(weight, hessian, shrinkage=UNCLIPPED)
    assert lost(weight, gptq(weight, hessian), x) < lost(weight, widest, x)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_unrelated_or_unseen_inputs_are_rounded_to_nearest(bits: int, scale: float) -> None:
    weight, _ = correlated(100)
    packed = gptq(weight, scale * np.eye(100), bits=bits, shrinkage=UNCLIPPED)
    nearest = quantise_blocks(weight, bits)
    np.testing.assert_array_equal(packed.values, nearest.values)
    np.testing.assert_array_equal(packed.scales, nearest.scales)


def test_columns_to_come_are_the_least_squares_solution() -> None:
    weight, x = correlated(64)
    hessian = x.T @ x
    packed = gptq(weight, hessian, damping=0.01, shrinkage=UNCLIPPED)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(64)
    exact = weight.astype(np.float64)
    rounded = np.zeros_like(exact)
    scales = np.zeros(0)
    for j in range(64):
        # The rest that minimises |x (exact - [rounded, rest])|, with the damped Hessian.
        pull = damped[j:, :j] @ (exact - rounded)[:, :j].T
        rest = exact[:, j:] + np.linalg.solve(damped[j:, j:], pull).T
        if j % 32 == 0:
            scales = np.abs(rest[:, :32]).max(axis=1) / 7
            np.testing.assert_allclose(packed.scales[:, j // 32], scales, rtol=1e-6)
        rounded[:, j] = np.rint(rest[:, 0] / scales).clip(-8, 7) * scales
    np.testing.assert_allclose(packed.dequantise(), rounded, rtol=1e-5)


def test_dead_inputs_are_rounded_to_nearest_and_disturb_nothing() -> None:
    dead = (0, 5, 40)
    weight, x = correlated(64, dead)
    weight[:, list(dead)] *= 0.1  # so that they do not set the scales
    packed = gptq(weight, x.T @ x, shrinkage=UNCLIPPED)
    half = np.repeat(packed.scales, 32, axis=1) * 0.5001
    off = np.abs(packed.dequantise() - weight)
    assert np.all(off[:, list(dead)] <= half[:, list(dead)])
    weight[:, list(dead)] = 0
    without = gptq(weight, x.T @ x, shrinkage=UNCLIPPED).dequantise()
    alive = np.delete(np.arange(64), dead)
    np.testing.assert_array_equal(packed.dequantise()[:, alive], without[:, alive])


@pytest.mark.parametrize("hessian", [np.eye(32), np.full((64, 64), np.nan)])
def test_a_hessian_that_does_not_fit_is_refused(hessian: npt.NDArray[np.floating]) -> None:
    with pytest.raises(ExportError, match="Hessian"):
        gptq(np.ones((2, 64)), hessian)


@pytest.fixture(scope="module")
def passages(edge_mm: EdgeMM, checkpoint: Path, frames: Path) -> list[Passage]:
    return read_passages(edge_mm, checkpoint, read_samples(frames))


@pytest.fixture(scope="module")
def packed(edge_mm: EdgeMM, passages: list[Passage]) -> dict[str, BlockWeight]:
    return gptq_weights(edge_mm, passages, decoder_spec(edge_mm), EdgeMMWeights(edge_mm), PLAIN)


def test_passages_are_prompts_with_greedy_answers(
    edge_mm: EdgeMM, passages: list[Passage], checkpoint: Path, frames: Path
) -> None:
    sample = read_samples(frames)[2]  # free text: spoken as it is shown
    with open_checkpoint(checkpoint) as session:
        answer = session.ask(sample.frame, sample.text)
    spoken = passages[2].ids[passages[2].prompt_length :]
    text = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).decode(list(spoken))
    assert text and answer.text.startswith(text)
    pixel_values = edge_mm.config.image.apply(sample.frame)
    embeds = TorchVision(edge_mm).run({"pixel_values": pixel_values})["image_embeds"][0]
    np.testing.assert_allclose(passages[2].image_embeds, embeds, atol=1e-5)
    vocab_size = edge_mm.config.language.vocab_size
    for passage in passages:
        image = [k for k, token in enumerate(passage.ids) if token >= vocab_size]
        assert [passage.ids[k] - vocab_size for k in image] == list(range(len(embeds)))
        assert max(image) < passage.prompt_length <= len(passage.ids)


def torch_hessians(
    model: EdgeMM, passages: list[Passage], name: str, asked_only: bool
) -> npt.NDArray[np.floating]:
    """2 X^T X of what a linear reads in the whole model, from its inputs put one below another."""
    inputs: list[torch.Tensor] = []
    linear = model.get_submodule(name)
    handle = linear.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    with torch.no_grad():
        for passage in passages:
            memory = torch.from_numpy(passage.image_embeds)[None]
            embeds = model.embed(torch.tensor([passage.ids]), memory)
            model.logits(model.hidden_states(embeds, image_memory=memory)[-1])
    handle.remove()
    if asked_only:
        inputs = [x[p.prompt_length - 1 :] for x, p in zip(inputs, passages, strict=True)]
    x = torch.cat(inputs).double()
    return (2 * x.T @ x).numpy()


FIRST = {"qkv": "self_attn.v_proj", "o": "self_attn.o_proj", "gate_up": "mlp.up_proj"}
FIRST |= {"down": "mlp.down_proj"}


@pytest.mark.parametrize("last", [False, True])
def test_hessians_are_of_the_inputs(edge_mm: EdgeMM, passages: list[Passage], last: bool) -> None:
    layer = edge_mm.lm.model.layers[0]
    found = layer_hessians(layer, first_states(edge_mm, passages), last=last)
    for part, name in FIRST.items():
        expected = torch_hessians(
            edge_mm, passages, f"lm.model.layers.0.{name}", last and part != "qkv"
        )
        np.testing.assert_allclose(found[part], expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_each_layer_is_fitted_to_what_the_quantised_ones_give(
    edge_mm: EdgeMM, passages: list[Passage], packed: dict[str, BlockWeight]
) -> None:
    model = copy.deepcopy(edge_mm)
    attention, mlp = model.lm.model.layers[0].self_attn, model.lm.model.layers[0].mlp
    first = {part: packed[f"layers.0.{part}"].dequantise() for part in FIRST}
    attention.q_proj.weight.data, attention.k_proj.weight.data, attention.v_proj.weight.data = (
        torch.from_numpy(first["qkv"]).split([64, 32, 32])
    )
    mlp.gate_proj.weight.data, mlp.up_proj.weight.data = torch.from_numpy(first["gate_up"]).chunk(2)
    attention.o_proj.weight.data = torch.from_numpy(first["o"])
    mlp.down_proj.weight.data = torch.from_numpy(first["down"])
    second = model.lm.model.layers[1].mlp.down_proj
    hessian = torch_hessians(model, passages, "lm.model.layers.1.mlp.down_proj", True)
    expected = gptq(second.weight.detach().numpy(), hessian, scale_type=np.dtype(np.float16))
    same = packed["layers.1.down"].values == expected.values
    assert same.mean() > 0.995  # a rounding of fp32 may tip a value that lies between two
    unfitted = torch_hessians(edge_mm, passages, "lm.model.layers.1.mlp.down_proj", True)
    other = gptq(second.weight.detach().numpy(), unfitted, scale_type=np.dtype(np.float16))
    assert (packed["layers.1.down"].values == other.values).mean() < 0.99


def test_the_decoder_graph_takes_every_weight(
    edge_mm: EdgeMM, packed: dict[str, BlockWeight]
) -> None:
    graph = build_decoder(
        decoder_spec(edge_mm),
        EdgeMMWeights(edge_mm),
        target="cuda",
        precision="int4",
        quantised=packed,
    ).graph
    stored = {
        name.removesuffix(".scales"): value.const_value.numpy()
        for name, value in graph.initializers.items()
        if name.endswith(".scales")
    }
    assert stored.keys() == packed.keys()
    for name, scales in stored.items():
        np.testing.assert_array_equal(scales, packed[name].scales)


def test_set_weights_reach_torch(edge_mm: EdgeMM, packed: dict[str, BlockWeight]) -> None:
    layer = copy.deepcopy(edge_mm.lm.model.layers[1])
    attention = layer.self_attn
    names = ("q_proj", "k_proj", "v_proj")
    set_weight([getattr(attention, name) for name in names], packed["layers.1.qkv"])
    rows = torch.cat([getattr(attention, name).weight for name in names])
    np.testing.assert_array_equal(rows.numpy(), packed["layers.1.qkv"].dequantise())


def test_a_rotated_decoder_is_fitted_to_what_it_reads(
    edge_mm: EdgeMM, passages: list[Passage]
) -> None:
    """The first layer's inputs, by torch, turned; and the last one's, which all that is before it
    and is quantised gives."""
    stored = PRECISIONS["cpu"]["int4"]
    spec, plain = decoder_spec(edge_mm), EdgeMMWeights(edge_mm)
    _, weights, _ = rotated(spec, plain, stored)
    fitted = gptq_weights(edge_mm, passages, spec, plain, stored)
    turn = rotate(np.eye(64, dtype=np.float32))
    norm = edge_mm.lm.model.layers[0].input_layernorm.weight.detach().numpy()
    seen = torch_hessians(edge_mm, passages, "lm.model.layers.0.self_attn.q_proj", False)
    read = turn @ (seen / norm / norm[:, None]) @ turn
    rows = np.concatenate([weights[f"model.layers.0.self_attn.{p}_proj.weight"] for p in "qkv"])
    expected = gptq(rows, read, block=64)
    assert (fitted["layers.0.qkv"].values == expected.values).mean() > 0.995
    assert all(weight.block == 64 for name, weight in fitted.items() if "down" not in name)


def test_nothing_to_calibrate_on_is_refused(edge_mm: EdgeMM) -> None:
    with pytest.raises(ExportError, match="calibrate"):
        gptq_weights(edge_mm, [], decoder_spec(edge_mm), EdgeMMWeights(edge_mm), PLAIN)
