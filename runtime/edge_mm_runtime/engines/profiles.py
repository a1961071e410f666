"""Optimisation profiles: the shapes that an engine is tuned for, read from the network's inputs.

Only dynamic dimensions are ours to set, and the graph's own dimension names say which is which:
the sequence is the dynamic dimension of `input_ids`, the image tokens are that of `image_embeds`,
the batch is the first of `pixel_values`; other inputs share these names. Integers that decide a
shape (TensorRT's shape tensors) get values instead: positions in the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from edge_mm_runtime.engines.errors import EngineError

REPLAYED = "decode"
"""The profile whose passes are all of one shape, so that a CUDA graph can repeat them."""

_OWNERS = {
    ("input_ids", 1): "sequence",
    ("image_embeds", 0): "image_tokens",
    ("pixel_values", 0): "images",
}


class Span(NamedTuple):
    """The least, the usual and the greatest size or value."""

    least: int
    usual: int
    greatest: int


class Range(msgspec.Struct, frozen=True):
    """Three shapes of one input; for a shape tensor three times its values."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    greatest: tuple[int, ...]


class Profile(msgspec.Struct, frozen=True):
    """One optimisation profile; its index in the engine is its place in the list."""

    name: str
    shapes: dict[str, Range]
    values: dict[str, Range] = {}


class Sizes(NamedTuple):
    """What the dynamic dimensions of one profile stand for."""

    sequence: Span = Span(1, 1, 1)
    image_tokens: Span = Span(1, 1, 1)
    images: Span = Span(1, 1, 1)
    position: Span = Span(0, 0, 0)


def decoder_sizes(context: int, image_tokens: int, prompt_tokens: int) -> dict[str, Sizes]:
    """Prefill takes 1..context tokens at once, decode one; both look at the same picture.

    `image_tokens` are those of one picture; a prompt with several has at most `context` of them.
    """
    images = Span(1, max(1, image_tokens), max(context, image_tokens, 1))
    prompt = Span(1, min(max(1, prompt_tokens), context), context)
    return {
        "prefill": Sizes(prompt, images, position=Span(0, 0, context)),
        REPLAYED: Sizes(Span(1, 1, 1), images, position=Span(0, context // 2, context)),
    }


def vision_sizes() -> dict[str, Sizes]:
    """One picture at a time, as a camera gives them."""
    return {"vision": Sizes()}


def plan_profiles(network: Any, sizes: dict[str, Sizes]) -> tuple[Profile, ...]:
    """The profiles of a parsed network; none where all its inputs have fixed shapes."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    names = _dimension_names(inputs)
    if not any(-1 in tuple(tensor.shape) or tensor.is_shape_tensor for tensor in inputs):
        return ()
    return tuple(
        Profile(
            name,
            {
                tensor.name: _shapes(tensor, names, given)
                for tensor in inputs
                if -1 in tuple(tensor.shape)
            },
            {
                tensor.name: _values(tensor, given.position)
                for tensor in inputs
                if tensor.is_shape_tensor
            },
        )
        for name, given in sizes.items()
    )


def add_profiles(builder: Any, config: Any, profiles: tuple[Profile, ...]) -> None:
    """Give the profiles to TensorRT, in order; EngineError where it refuses one."""
    for index, profile in enumerate(profiles):
        made = builder.create_optimization_profile()
        for name, span in profile.shapes.items():
            made.set_shape(name, span.least, span.usual, span.greatest)
        for name, span in profile.values.items():
            made.set_shape_input(name, span.least, span.usual, span.greatest)
        if config.add_optimization_profile(made) != index:
            raise EngineError(
                f"TensorRT refuses the optimisation profile {profile.name}: {profile.shapes}"
            )


def _dimension_names(inputs: list[Any]) -> dict[str, str]:
    """The graph's name of a dynamic dimension -> what it stands for, from the inputs we know."""
    return {
        tensor.get_dimension_name(axis): _OWNERS[tensor.name, axis]
        for tensor in inputs
        for axis, size in enumerate(tensor.shape)
        if size == -1 and (tensor.name, axis) in _OWNERS and tensor.get_dimension_name(axis)
    }


def _shapes(tensor: Any, names: dict[str, str], sizes: Sizes) -> Range:
    spans = []
    for axis, size in enumerate(tensor.shape):
        if size != -1:
            spans.append(Span(size, size, size))
            continue
        name = tensor.get_dimension_name(axis)
        role = names.get(name) or _OWNERS.get((tensor.name, axis))
        if role is None:
            raise EngineError(
                f"input {tensor.name} has an open dimension {axis} ({name or 'unnamed'}) that is "
                "neither the sequence nor the image tokens nor the images: export the bundle again"
            )
        spans.append(getattr(sizes, role))
    return _range(spans)


def _values(tensor: Any, span: Span) -> Range:
    count = 1
    for size in tensor.shape:
        count *= size
    return _range([span] * count)


def _range(spans: list[Span]) -> Range:
    return Range(
        tuple(span.least for span in spans),
        tuple(span.usual for span in spans),
        tuple(span.greatest for span in spans),
    )
