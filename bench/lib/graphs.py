"""The exporter's decoder graphs of a text model, and int4 weights that are fitted to its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.lib.graph import Graph
from bench.lib.making import made
from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.families.text import load_text_decoder
from edge_mm_export.hessians import Passage, gptq_weights
from edge_mm_export.precision import find_precision
from edge_mm_export.quantise import BlockWeight
from edge_mm_export.storage import save_graph
from edge_mm_runtime.bundle import DecoderGeometry


def write_graph(
    folder: Path,
    target: str,
    precision: str,
    out: Path,
    *,
    context: int,
    quantised: Mapping[str, BlockWeight] | None = None,
) -> Graph:
    """Export the decoder of a transformers folder; `quantised` is that of `build_decoder`."""
    spec, weights = load_text_decoder(folder, context=context)
    model = build_decoder(spec, weights, target=target, precision=precision, quantised=quantised)
    sizes = {value.name: value.const_value for value in model.graph.initializers.values()}
    table = any(k.startswith("lm_head") for k in sizes if k)  # then a token reads one row of it
    past = next(value for value in model.graph.inputs if value.name == "past_key_values.0.key")
    graph = Graph(
        path=str(out),
        target=target,
        precision=precision,
        geometry=geometry(spec),
        weight_bytes=sum(
            v.nbytes for k, v in sizes.items() if v and not (table and k == "embed_tokens.weight")
        ),
        cache_bytes=2 * spec.layers * spec.kv_heads * spec.head_dim * int(past.dtype.itemsize),
        operations=2 * _linear_weights(spec),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_graph(model, out)
    return graph


def geometry(spec: DecoderSpec) -> DecoderGeometry:
    """What the runtime's decoder needs to know of a spec."""
    return DecoderGeometry(
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        context=spec.context,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
    )


def fitted_int4(
    folder: Path, target: str, passages: Callable[[], Sequence[Sequence[int]]], kept: Path
) -> dict[str, BlockWeight]:
    """A model's linears in a target's int4 by GPTQ, fitted to what it reads.

    That takes minutes, so they are kept; `passages` are asked for where they are not yet.
    """

    def fit(partial: Path) -> None:
        _, stored = find_precision(target, "int4")
        spec, weights = load_text_decoder(folder)
        read = [Passage(np.zeros((0, 0), np.float32), tuple(ids), 1) for ids in passages()]
        exact = _TextModel(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
        fitted = gptq_weights(exact, read, spec, weights, stored)
        arrays = {f"{name}.values": np.ascontiguousarray(w.values) for name, w in fitted.items()}
        arrays |= {f"{name}.scales": np.ascontiguousarray(w.scales) for name, w in fitted.items()}
        save_file(arrays, partial)

    arrays = load_file(made(kept, fit))
    names = [key.removesuffix(".values") for key in arrays if key.endswith(".values")]
    return {name: _weight(arrays[f"{name}.values"], arrays[f"{name}.scales"]) for name in names}


def _weight(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> BlockWeight:
    """Of a linear whose inputs are a multiple of a block: all of a Llama's."""
    return BlockWeight(values, scales, values.shape[1] * values.shape[2], bits=4)


def _linear_weights(spec: DecoderSpec) -> int:
    """How many weights the linears of all layers have."""
    attention = spec.hidden_size * (spec.qkv_size + spec.heads * spec.head_dim)
    return spec.layers * (attention + 3 * spec.hidden_size * spec.intermediate_size)


class _TextModel:
    """What `gptq_weights` asks of an EdgeMM, from a Llama that sees no pictures."""

    fusion = None

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm = lm

    def embed(self, ids: Tensor, _image_embeds: Tensor) -> Tensor:
        return self.lm.get_input_embeddings()(ids)

    def hidden_states(self, embeds: Tensor, image_memory: Tensor) -> None:
        with torch.no_grad():
            self.lm.model(inputs_embeds=embeds, use_cache=False)
