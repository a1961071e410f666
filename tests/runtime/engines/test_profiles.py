"""Profiles from the inputs of a parsed network, which is a list of tensors here."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.profiles import (
    Profile,
    Range,
    add_profiles,
    decoder_sizes,
    plan_profiles,
    vision_sizes,
)


@dataclass
class Tensor:
    """ITensor: an open dimension is -1 in `shape` and may have a name."""

    name: str
    dimensions: tuple[int | str | None, ...]
    is_shape_tensor: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.dimensions)

    def get_dimension_name(self, axis: int) -> str | None:
        size = self.dimensions[axis]
        return size if isinstance(size, str) else None


def network(*tensors: Tensor) -> Any:
    return SimpleNamespace(num_inputs=len(tensors), get_input=tensors.__getitem__)


IDS = Tensor("input_ids", (1, "S"))
IMAGES = Tensor("image_embeds", ("T", 256))
CACHE = Tensor("past_key_values.0.key", (1, 2, 512, 64))


def test_a_decoder_has_prefill_and_decode() -> None:
    mask = Tensor("attention_mask", (1, 1, "S", 512))
    prefill, decode = plan_profiles(network(IDS, IMAGES, mask, CACHE), decoder_sizes(512, 100, 132))
    images = Range((1, 256), (100, 256), (512, 256))
    assert prefill == Profile(
        "prefill",
        {
            "input_ids": Range((1, 1), (1, 132), (1, 512)),
            "image_embeds": images,
            "attention_mask": Range((1, 1, 1, 512), (1, 1, 132, 512), (1, 1, 512, 512)),
        },
    )
    assert decode == Profile(
        "decode",
        {
            "input_ids": Range((1, 1), (1, 1), (1, 1)),
            "image_embeds": images,
            "attention_mask": Range((1, 1, 1, 512), (1, 1, 1, 512), (1, 1, 1, 512)),
        },
    )


def test_a_prompt_never_exceeds_the_context() -> None:
    prefill, _ = plan_profiles(network(IDS), decoder_sizes(64, 100, 132))
    assert prefill.shapes["input_ids"] == Range((1, 1), (1, 64), (1, 64))


def test_integers_that_decide_a_shape_get_values() -> None:
    past = Tensor("past_length", (1,), is_shape_tensor=True)
    prefill, decode = plan_profiles(network(IDS, past, CACHE), decoder_sizes(512, 100, 132))
    assert prefill.values == {"past_length": Range((0,), (0,), (512,))}
    assert decode.values == {"past_length": Range((0,), (256,), (512,))}


def test_vision_takes_one_picture() -> None:
    batch = Tensor("pixel_values", ("N", 3, 240, 240))
    (profile,) = plan_profiles(network(batch), vision_sizes())
    one = (1, 3, 240, 240)
    assert profile == Profile("vision", {"pixel_values": Range(one, one, one)})


def test_fixed_shapes_need_no_profile() -> None:
    assert plan_profiles(network(Tensor("pixel_values", (1, 3, 240, 240))), vision_sizes()) == ()


@pytest.mark.parametrize(
    ("tensor", "where"),
    [
        (Tensor("past_key_values.0.key", (1, 2, "capacity", 64)), r"dimension 2 \(capacity\)"),
        (Tensor("positions", (None,)), r"dimension 0 \(unnamed\)"),
        (Tensor("pixel_values", (1, 3, "H", "W")), r"dimension 2 \(H\)"),
    ],
)
def test_another_open_dimension_is_named(tensor: Tensor, where: str) -> None:
    with pytest.raises(EngineError, match=f"input {tensor.name} has an open {where}"):
        plan_profiles(network(IDS, tensor), decoder_sizes(512, 100, 132))


def test_unnamed_dimensions_of_known_inputs_are_known() -> None:
    (profile,) = plan_profiles(network(Tensor("pixel_values", (None, 3, 8, 8))), vision_sizes())
    assert profile.shapes["pixel_values"].greatest == (1, 3, 8, 8)


def test_a_refused_profile_is_named() -> None:
    """No profile of ours is refused by a real TensorRT, so a stand-in refuses one (-1)."""
    made = SimpleNamespace(set_shape=lambda *_: None)
    builder = SimpleNamespace(create_optimization_profile=lambda: made)
    config = SimpleNamespace(add_optimization_profile=lambda profile: -1)
    profiles = plan_profiles(network(IDS), decoder_sizes(512, 100, 132))
    with pytest.raises(EngineError, match="refuses the optimisation profile prefill"):
        add_profiles(builder, config, profiles)
