"""A recipe of three short stages on the drawn world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RECIPE = """
model:
  name: tiny
  backbone: null
  vision: {neck_channels: 16, hidden_size: 32, layers: 1, heads: 2, intermediate_size: 32}
  language: {vocab_size: 1280, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1,
             num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16}
data: {train: [FOLDER], questions: 2, max_tokens: 220, workers: 0}
train: {precision: fp32, average: 0.5, muon: true, log_every: 1}
stages:
  - {name: contrastive, steps: 2, batch_size: 2, parts: [vision, regions, language],
     losses: {contrastive: 1, looks: 1, boxes: 1}}
  - {name: align, steps: 2, batch_size: 2, parts: [projector], losses: {sea: 1, language: 1}}
  - {name: instruct, steps: 4, batch_size: 2, parts: [vision, projector, regions, language],
     losses: {language: 1, pointing: 1, mentions: 1, boxes: 1, looks: 1, sea: 1},
     warmup: 1, decay: 2}
"""
# The recipe with one stage that has no batch statistics in it.
ALIGN = [
    "stages=[{name: align, steps: 3, batch_size: 4, parts: [projector, language], warmup: 1, "
    "losses: {sea: 1, language: 1, mentions: 1}}]"
]


@pytest.fixture()
def recipe_file(tmp_path: Path, scene_folder: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(scene_folder)))
    return path


def log_lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
