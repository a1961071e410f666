"""A tiny drawn world and a tiny model, made in about a second."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_mm.data.scenes import Seen
from edge_mm.model.config import LanguageConfig, ModelConfig, VisionConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.tokenizer import learn_tokenizer
from edge_mm.words import COLORS, KINDS

VOCABULARY = 1280

torch.set_num_threads(1)  # tiny matrices, two workers: threads only wait for each other


def drawn_scene(folder: Path, number: int, rng: random.Random) -> dict:
    """One picture of flat rectangles with a segmentation, and its annotation."""
    size = (rng.choice((96, 120)), rng.choice((96, 140)))
    picture = np.full((*size, 3), 200, np.uint8)
    segmentation = np.zeros(size, np.uint8)
    for item in range(1, 5):
        y, x = rng.randrange(size[0] - 40), rng.randrange(size[1] - 40)
        segmentation[y : y + rng.randint(12, 36), x : x + rng.randint(12, 36)] = item
    objects = []
    for item in range(1, 5):
        rows, columns = np.nonzero(segmentation == item)
        if len(rows) < 60:
            segmentation[segmentation == item] = 0
            continue
        picture[segmentation == item] = [rng.randrange(256) for _ in range(3)]
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        objects.append(
            {
                "id": item,
                "kind": rng.choice(KINDS),
                "color": rng.choice(COLORS),
                "box_xyxy": box,
                "point_xy": [int(columns[0]), int(rows[0])],
                "size_m": rng.uniform(0.03, 0.3),
            }
        )
    name = f"{number:06d}"
    cv2.imwrite(str(folder / f"{name}.png"), picture)
    cv2.imwrite(str(folder / f"{name}-ids.png"), segmentation)
    return {
        "id": name,
        "image": f"{name}.png",
        "segmentation": f"{name}-ids.png",
        "width": size[1],
        "height": size[0],
        "objects": objects,
    }


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    rng = random.Random(3)
    scenes = [drawn_scene(folder, number, rng) for number in range(6)]
    (folder / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": scenes}))
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    return learn_tokenizer(VOCABULARY, 128)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return ModelConfig(
        name="tiny",
        vision=VisionConfig(
            neck_channels=16, hidden_size=32, layers=1, heads=2, intermediate_size=32
        ),
        language=LanguageConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        ),
    )


@pytest.fixture()
def tiny_model(tiny_config: ModelConfig) -> EdgeMM:
    torch.manual_seed(0)
    return EdgeMM(tiny_config).eval()


def imagined_view(rng: random.Random) -> list[Seen]:
    """Some objects at random places; two never at the same one."""
    view = []
    for number in range(1, rng.randint(2, 8)):
        x, y = rng.uniform(0, 0.8), rng.uniform(0, 0.8)
        width, height = rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.2)
        view.append(
            Seen(
                number,
                rng.choice(KINDS[:6]),
                rng.choice(COLORS[:5]),
                (x, y, x + width, y + height),
                (x + width / 2, y + height / 2),
                (x + width / 2, y + height),
                rng.choice((0.2, 1.0, 1.0)),
                rng.uniform(0.03, 0.3),
                None,
            )
        )
    return view


@pytest.fixture(params=range(5))
def view_rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)
