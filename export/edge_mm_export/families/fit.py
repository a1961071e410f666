"""int4 by GPTQ for an imported model: its own class reads, its layers are fitted one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mm_export.families.vlm import ImportedVLM
from edge_mm_export.hessians import Stack, fit_layers
from edge_mm_export.linear import BlockWeights
from edge_mm_export.precision import Precision


class Passage(NamedTuple):
    """A prompt with its answer, to be read in one go."""

    ids: list[int]
    prompt_length: int
    pixel_values: npt.NDArray[np.float32]  # [1, 3, H, W]


def fit_blocks(model: ImportedVLM, passages: Sequence[Passage], stored: Precision) -> BlockWeights:
    """The weights of the decoder's linears by their names in its graph; see `hessians.py`."""
    states = [model.reference.first_state(*passage) for passage in passages]
    model.release()  # what the reference reads with widens its weights by itself
    stack = Stack(
        list(model.language.layers), model.language.norm, model.head.get_parameter("weight")
    )
    return fit_layers(stack, states, model.spec, model.weights, stored)
