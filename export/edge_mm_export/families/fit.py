"""int4 by GPTQ for an imported model: its own class reads, its layers are fitted one by one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mm_export.families.vlm import ImportedVLM
from edge_mm_export.hessians import fit_layers
from edge_mm_export.linear import BlockWeights


class Passage(NamedTuple):
    """A prompt with its answer, to be read in one go."""

    ids: list[int]
    prompt_length: int
    pixel_values: npt.NDArray[np.float32]  # [1, 3, H, W]


def fit_blocks(
    model: ImportedVLM, passages: Sequence[Passage], scale_type: np.dtype[Any]
) -> BlockWeights:
    """The weights of the decoder's linears by their names in its graph; see `hessians.py`."""
    states = [model.reference.first_state(*passage) for passage in passages]
    model.release()  # what the reference reads with widens its weights by itself
    norm = copy.deepcopy(model.language.norm).float()
    return fit_layers(
        list(model.language.layers),
        model.head.get_parameter("weight"),
        lambda state: norm(state.hidden),
        states,
        scale_type=scale_type,
    )
