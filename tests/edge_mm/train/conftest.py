"""A recipe of three short stages on the drawn world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

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


CONFIGS = Path(__file__).resolve().parents[3] / "recipes" / "accelerate"


def launch(config: str, processes: int, *command: str, **environment: str) -> None:
    """Run a command under `accelerate launch` with a shipped config, on CPUs with gloo.

    `accelerate launch --cpu` would start a single process, whatever --num_processes says.
    """
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    launcher += ["--num_processes", str(processes), "--main_process_port", "0", *command]
    alone = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher],
        env=os.environ | alone | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def processes_of(out: Path) -> int:
    """How many processes the run was saved by."""
    return json.loads((out / "state" / "progress.json").read_text())["processes"]


def launcher_environment(config: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` hands to its processes."""
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "script.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)
