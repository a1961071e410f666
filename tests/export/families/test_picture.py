"""Image transforms of transformers folders against transformers' own image processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.families.picture import Picture, read_picture

WIDTH, HEIGHT = 160, 120
SIZE = 64
SQUARE = {"height": SIZE, "width": SIZE}
MEAN_LEVELS, MOST_LEVELS = 0.5, 3.0
"""How far two ways to shrink smooth pictures are apart at most, in 255 levels of a pixel."""


def frame(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth random frame, BGR."""
    rng = np.random.default_rng(7)
    return cv2.resize(
        rng.integers(0, 255, (5, 7, 3), dtype=np.uint8),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )


def read(settings: dict[str, Any], folder: Path, family: str = "llava", **options: Any) -> Picture:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return read_picture(folder, family, SIZE, SIZE, **options)


def levels(found: np.ndarray, expected: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Differences of two normalised pictures, in levels of 0..255."""
    factor = settings["rescale_factor"] if settings.get("do_rescale", True) else 1.0
    std = np.array(settings["image_std"] if settings.get("do_normalize", True) else [1.0] * 3)
    return np.abs(found - expected) * std[:, None, None] / factor


@pytest.mark.parametrize(
    ("family", "processor", "notes"),
    [
        ("llava", SiglipImageProcessorPil(size=SQUARE), 0),
        ("llava", CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE), 0),
        ("paligemma", SiglipImageProcessorPil(size=SQUARE, resample=2), 0),
        ("gemma3", Gemma3ImageProcessorPil(size=SQUARE), 0),
        ("internvl", GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=False), 1),
        (
            "idefics3",
            Idefics3ImageProcessorPil(
                size={"longest_edge": WIDTH},
                max_image_size={"longest_edge": SIZE},
                do_image_splitting=False,
            ),
            1,
        ),
        ("llava", SiglipImageProcessorPil(size=SQUARE, rescale_factor=1 / 127.5), 0),
        ("llava", SiglipImageProcessorPil(size=SQUARE, do_normalize=False), 0),
        ("llava", SiglipImageProcessorPil(size=SQUARE, do_rescale=False), 0),
    ],
)
def test_squashed_pictures_are_the_processors(
    family: str, processor: Any, notes: int, tmp_path: Path
) -> None:
    settings = processor.to_dict()
    picture = read(settings, tmp_path, family)
    rgb = frame()[..., ::-1].copy()
    expected = np.array(processor(rgb, return_tensors="np")["pixel_values"]).reshape(3, SIZE, SIZE)
    found = picture.transform.apply(frame())[0]
    apart = levels(found, expected, settings)
    assert apart.mean() < MEAN_LEVELS and apart.max() < MOST_LEVELS
    assert picture.transform.kind == "squash" and len(picture.notes) == notes


def test_llavas_own_padding_is_a_letterbox(tmp_path: Path) -> None:
    processor = LlavaImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=SQUARE, do_pad=True, image_mean=[0.5] * 3
    )
    settings = processor.to_dict()
    picture = read(settings, tmp_path)
    assert picture.transform.kind == "letterbox" and picture.notes == ()
    rgb = frame()[..., ::-1].copy()
    expected = np.array(processor(rgb, return_tensors="np")["pixel_values"][0])
    apart = levels(picture.transform.apply(frame())[0], expected, settings)
    inside = slice(10, -10)  # the rows that are picture alone; PIL shrinks its bars along
    assert apart[:, inside].mean() < MEAN_LEVELS and apart[:, inside].max() < MOST_LEVELS
    assert apart[:, :4].max() < 1.5  # a bar: 127 or 127.5


def test_what_would_be_cut_off_is_put_between_bars(tmp_path: Path) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=SQUARE)
    picture = read(processor.to_dict(), tmp_path)
    assert picture.transform.kind == "letterbox"
    assert "cuts the longer sides of a frame off" in picture.notes[0]
    square = frame(120, 120)  # where nothing is cut off, it is the processor's
    expected = processor(square[..., ::-1].copy(), return_tensors="np")["pixel_values"][0]
    apart = levels(picture.transform.apply(square)[0], np.array(expected), processor.to_dict())
    assert apart.mean() < MEAN_LEVELS and apart.max() < MOST_LEVELS
    placement = picture.transform.placement(WIDTH, HEIGHT)
    assert (placement.content_width, placement.content_height) == (64, 48)
    bars = picture.transform.apply(frame())[0, :, :8]
    assert np.abs(bars).max() < 0.2  # grey: nothing, once normalised


def test_a_frame_of_the_graphs_shape_is_the_qwen_processors(tmp_path: Path) -> None:
    processor = Qwen2VLImageProcessorPil(patch_size=8, min_pixels=256, max_pixels=64 * 48)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor.to_dict()))
    picture = read_picture(tmp_path, "qwen2_vl", 64, 48, any_size=True)
    made = processor(frame()[..., ::-1].copy(), return_tensors="np")
    assert made["image_grid_thw"].tolist() == [[1, 6, 8]]
    pixels = picture.transform.apply(frame())
    flat, _, _ = Qwen2VLImageProcessorPil().patchify(pixels[0], 8, 2, 2)
    apart = np.abs(flat - np.array(made["pixel_values"])) * 255 * max(processor.image_std)
    assert apart.mean() < MEAN_LEVELS and apart.max() < MOST_LEVELS
    assert "64 x 48 pixels" in picture.notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 32, "width": 32}}, "makes pictures of 32 x 32 pixels.*64 x 64"),
        ({"size": {"shortest_edge": SIZE}}, "no fixed size"),
        ({"size": SQUARE, "do_resize": False}, "not resized"),
        ({"size": SQUARE, "resample": 0}, "not resized smoothly"),
        ({"size": SQUARE, "image_mean": [0.5]}, "image_mean and image_std of three colours"),
    ],
)
def test_what_no_transform_can_do_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    known = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    with pytest.raises((ExportError, UnsupportedError), match=message) as caught:
        read({**known, **settings}, tmp_path)
    assert "preprocessor_config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_processor_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no preprocessor_config\.json"):
        read_picture(tmp_path, "llava", SIZE, SIZE)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ExportError, match=r"preprocessor_config\.json is damaged"):
        read_picture(tmp_path, "llava", SIZE, SIZE)


def test_the_processor_may_lie_in_one_file_with_others(tmp_path: Path) -> None:
    settings = {"image_processor": SiglipImageProcessorPil(size=SQUARE).to_dict()}
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    assert read_picture(tmp_path, "llava", SIZE, SIZE).transform.kind == "squash"
