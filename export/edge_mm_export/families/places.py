"""How a family names places, and how it is asked to: the codec of its bundle, and a mode's words.

Families that are not here were not taught to name places: only free text can be asked of them.
"""

from __future__ import annotations

from edge_mm_runtime.bundle import CodecName, Grounding

CODECS: dict[str, CodecName] = {
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "paligemma": "paligemma",
    "internvl": "internvl",
}
"""By transformers' `model_type`."""

_POINT = '{text}, report point coordinates in JSON format like this: {"point_2d": [x, y], "label"}'

MODES: dict[CodecName, dict[str, str]] = {
    # cookbooks/spatial_understanding.ipynb of github.com/QwenLM/Qwen2.5-VL
    "qwen2_5_vl": {
        "locate": "{text}, output its bbox coordinates using JSON format.",
        "point": _POINT,
    },
    # cookbooks/2d_grounding.ipynb of github.com/QwenLM/Qwen3-VL
    "qwen3_vl": {"locate": "{text}, report bbox coordinates in JSON format.", "point": _POINT},
    "qwen2_vl": {"locate": "Detect the bounding box: {text}", "point": "Point at it: {text}"},
    # big_vision/configs/proj/paligemma/README.md of github.com/google-research/big_vision
    "paligemma": {"locate": "detect {text}", "answer": "answer en {text}"},
    # "Grounding detection" of internvl.readthedocs.io
    "internvl": {
        "locate": "Please provide the bounding box coordinate of the region this sentence "
        "describes: <ref>{text}</ref>"
    },
}


def grounding_of(family: str) -> Grounding:
    """What the bundle of a family says of places."""
    return Grounding(codec=CODECS.get(family, "none"))


def modes_of(family: str) -> dict[str, str]:
    """How the user's words are put for a mode: see `Prompt.modes`."""
    return MODES.get(CODECS.get(family, "none"), {})
