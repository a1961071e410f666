"""Weights in blocks for all linears of a decoder, fitted to what they read: GPTQ layer by layer.

The model answers real questions and then reads its own answers again. While a layer reads, the
Hessians 2 X^T X of its linears' inputs are added up; it is quantised, and what it gives then is
what the next layer reads, which so can make up for it. In memory are the hidden states between
two layers and the Hessians of one layer; never the inputs of all linears.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.fusion import Fusion
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm.model.session import open_model
from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.errors import ExportError
from edge_mm_export.gptq import gptq
from edge_mm_export.hadamard import rotate, rotated
from edge_mm_export.precision import Precision
from edge_mm_export.quantise import BlockWeight
from edge_mm_export.samples import Sample
from edge_mm_export.weights import Weights
from edge_mm_runtime.runner import Array, Arrays
from edge_mm_runtime.session import Session

MAX_NEW_TOKENS = 64

_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The linears of a layer by their names in the decoder graph, and the rows that each is made of."""
_FUSED = {"qkv": ("self_attn.qkv_proj",), "gate_up": ("mlp.gate_up_proj",)}
"""The same where a checkpoint has them as one (Phi-3)."""


@dataclass(frozen=True)
class Passage:
    """A prompt with its answer, to be read in one go."""

    image_embeds: npt.NDArray[np.float32]  # as the decoder graph takes them
    ids: tuple[int, ...]
    prompt_length: int


class Given(NamedTuple):
    """What a layer gets besides what the one before it gives."""

    options: dict[str, Any]
    added: Tensor | None  # to what the one before gives, [1, S, D]


class State(NamedTuple):
    """A passage between two layers."""

    hidden: Tensor  # [1, S, D]
    options: dict[str, Any]  # what the next layer is given besides
    asked: int  # the first position that the decoder says something of: the prompt's last one
    following: tuple[Given, ...] = ()  # for the layers after the next; (): the same as it is given

    @torch.no_grad()
    def after(self, layer: nn.Module) -> State:
        """The passage behind the next layer."""
        output = layer(self.hidden, **self.options)
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        if not self.following:
            return self._replace(hidden=hidden)
        (options, added), *rest = self.following
        hidden = hidden if added is None else hidden + added
        return State(hidden, options, self.asked, tuple(rest))

    def rotated(self) -> State:
        """The same for a decoder whose residual stream is rotated."""
        return self._replace(hidden=torch.from_numpy(rotate(self.hidden.float().numpy())))


class Stack(NamedTuple):
    """What passages go through."""

    layers: Sequence[nn.Module]
    norm: nn.Module  # behind the last layer
    head: Tensor  # [V, D], the weight of the linear that makes logits
    fusion: Fusion | None = None  # blocks that look at the picture, some behind the norm


def read_passages(model: EdgeMM, checkpoint: Path, samples: Iterable[Sample]) -> list[Passage]:
    """Ask the model of a checkpoint, in torch; each answer with its prompt."""
    listener = _Listener(model)
    bundle = open_model(model, checkpoint, model.config.grounding).bundle
    passages = []
    with Session(bundle, vision=TorchVision(model), decoder=listener) as session:
        for sample in samples:
            listener.prompt_length = 0
            session.ask(sample.frame, sample.text, mode=sample.mode, max_new_tokens=MAX_NEW_TOKENS)
            passages.append(
                Passage(listener.image_embeds, tuple(listener.ids), listener.prompt_length)
            )
    return passages


@torch.no_grad()
def gptq_weights(
    model: EdgeMM,
    passages: Sequence[Passage],
    spec: DecoderSpec,
    weights: Weights,
    stored: Precision,
) -> dict[str, BlockWeight]:
    """The weights of a Llama's linears by their names in the decoder graph: see `fit_layers`.

    ExportError without passages.
    """
    if not passages:
        raise ExportError("there is nothing to calibrate on: give frames with questions")
    return fit_layers(
        Stack(
            layers=list(model.lm.model.layers),
            norm=model.lm.model.norm,
            head=model.lm.get_parameter("lm_head.weight"),
            fusion=model.fusion,
        ),
        first_states(model, passages),
        spec,
        weights,
        stored,
    )


@torch.no_grad()
def fit_layers(
    stack: Stack,
    states: Sequence[State],
    spec: DecoderSpec,
    weights: Weights,
    stored: Precision,
) -> dict[str, BlockWeight]:
    """The weights of a decoder's linears by their names in its graph; the stack stays as it is.

    states         the passages as the first layer reads them
    spec, weights  as `build_decoder` takes them: where its graph is rotated, they are fitted so
    """
    spec, weights, stored = rotated(spec, weights, stored)
    parts: dict[str, BlockWeight] = {}

    def quantise(name: str, weight: Tensor, hessian: npt.NDArray[np.float64]) -> BlockWeight:
        parts[name] = gptq(
            weight.float().numpy(),
            hessian,
            bits=stored.bits,
            scale_type=stored.dtype.numpy(),
            block=stored.block_of(name, len(hessian)),
        )
        return parts[name]

    norm, head = copy.deepcopy(stack.norm).float(), stack.head
    if spec.rotated:
        states = [state.rotated() for state in states]
        _load(norm, "model.norm.", weights)
        head = torch.from_numpy(weights["lm_head.weight"])
    for index, exact_layer in enumerate(stack.layers):
        layer = copy.deepcopy(exact_layer).float()
        if spec.rotated:
            _load(layer, f"model.layers.{index}.", weights)
        hessians = layer_hessians(layer, states, last=index == len(stack.layers) - 1)
        for part, hessian in hessians.items():
            linears = [layer.get_submodule(name) for name in _parts(layer)[part]]
            exact = torch.cat([linear.get_parameter("weight") for linear in linears])
            set_weight(linears, quantise(f"layers.{index}.{part}", exact, hessian))
        states = [state.after(layer) for state in states]
    read = partial(_read_by_head, norm, stack)
    quantise("lm_head", head, head_hessian(read, states))
    return parts


def _load(module: nn.Module, prefix: str, weights: Weights) -> None:
    """Give a module the weights of these names, but for what they do not have."""
    for name, parameter in module.named_parameters():
        if prefix + name in weights:
            parameter.data = torch.from_numpy(np.array(weights[prefix + name], np.float32))


def set_weight(linears: Sequence[nn.Module], weight: BlockWeight) -> None:
    """Let torch multiply by what linears that a graph has as one are quantised to."""
    rows = torch.from_numpy(weight.dequantise())
    sizes = [len(linear.get_parameter("weight")) for linear in linears]
    for linear, part in zip(linears, torch.split(rows, sizes), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)  # not in place: it may be tied


@torch.no_grad()
def first_states(model: EdgeMM, passages: Sequence[Passage]) -> list[State]:
    """The passages as the first layer reads them."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor], options: dict[str, Any]) -> None:
        seen.append((inputs[0], options))

    handle = model.lm.model.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for passage in passages:
            memory = torch.from_numpy(passage.image_embeds)[None]
            embeds = model.embed(torch.tensor([passage.ids]), memory)
            model.hidden_states(embeds, image_memory=memory)
    finally:
        handle.remove()
    return [
        State(hidden, options, passage.prompt_length - 1)
        for passage, (hidden, options) in zip(passages, seen, strict=True)
    ]


@torch.no_grad()
def layer_hessians(
    layer: nn.Module, states: Sequence[State], *, last: bool
) -> dict[str, npt.NDArray[np.float64]]:
    """By linear of a layer, 2 X^T X [K, K] of its inputs X over all states, summed in fp64.

    Behind the attention of the last layer a graph carries on with the positions that are asked for
    only: so do the Hessians.
    """
    seen: dict[str, Tensor] = {}

    def keep(part: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            seen[part] = inputs[0][0]

        return hook

    handles = [
        layer.get_submodule(names[0]).register_forward_pre_hook(keep(part))
        for part, names in _parts(layer).items()
    ]
    totals: dict[str, npt.NDArray[np.float64]] = {}
    try:
        for state in states:
            layer(state.hidden, **state.options)
            for part, rows in seen.items():
                found = _hessian(rows[state.asked :] if last and part != "qkv" else rows)
                totals[part] = totals.get(part, 0) + found
    finally:
        for handle in handles:
            handle.remove()
    return totals


@torch.no_grad()
def head_hessian(
    read_by_head: Callable[[State], Tensor], states: Sequence[State]
) -> npt.NDArray[np.float64]:
    """2 X^T X [D, D] of what `lm_head` reads after the last layer, where it is asked."""
    total: npt.NDArray[np.float64] = np.zeros(())
    for state in states:
        total = total + _hessian(read_by_head(state)[0, state.asked :])
    return total


def _read_by_head(norm: nn.Module, stack: Stack, state: State) -> Tensor:
    """[1, S, D] behind the last layer -> normed, and the blocks that come after it."""
    hidden: Tensor = norm(state.hidden)
    if stack.fusion is not None:
        hidden = stack.fusion(hidden, state.options["image_memory"], len(stack.layers))
    return hidden


def _parts(layer: nn.Module) -> dict[str, tuple[str, ...]]:
    """The linears of a layer by their names in the decoder graph."""
    fused = {part: names for part, names in _FUSED.items() if _has(layer, names[0])}
    return _PARTS | fused


def _has(layer: nn.Module, name: str) -> bool:
    return any(found == name for found, _ in layer.named_modules())


def _hessian(rows: Tensor) -> npt.NDArray[np.float64]:
    product: npt.NDArray[np.float64] = (2 * rows.T @ rows).double().numpy()
    return product


class _Listener(TorchDecoder):
    """A torch decoder that remembers what its cache holds."""

    def __init__(self, model: EdgeMM) -> None:
        super().__init__(model)
        self.ids: list[int] = []
        self.prompt_length = 0  # set to 0 before a question
        self.image_embeds = np.zeros((0, 0), np.float32)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        total, new = int(inputs["total_sequence_length"][0]), inputs["input_ids"][0].tolist()
        del self.ids[total - len(new) :]
        self.ids += new
        self.prompt_length = self.prompt_length or total
        self.image_embeds = inputs["image_embeds"]
        return super().run(inputs)
