"""A run on shards: counted bad samples, and on from where it stood, as if it had not stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edge_mm.data.shards import write_shards
from edge_mm.train.log import RunLog
from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.data.test_shards import rewrite
from tests.edge_mm.train.conftest import log_lines

STAGES = (
    "stages=[{name: align, steps: 5, batch_size: 4, accumulate: 2, parts: [projector], "
    "losses: {language: 1}}, {name: read, steps: 2, batch_size: 3, parts: [language], "
    "losses: {language: 1}}]"
)


class StoppedError(Exception):
    """The power goes."""


def test_a_stopped_run_on_shards_goes_on_exactly(
    tmp_path: Path, recipe_file: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(scene_folder, tmp_path / "shards", 1)
    rewrite(tmp_path / "shards" / "000002.tar", {"000002.png": b"no picture"})
    shards = [f"data.train=[{tmp_path}/shards/*.tar]", "data.workers=2", "data.shuffle_buffer=3"]
    recipe = load_recipe(recipe_file, [*shards, STAGES, "train.checkpoint_minutes=0"])
    train(recipe, tmp_path / "whole")
    whole = log_lines(tmp_path / "whole")
    assert whole[-1]["skipped"] > 2 and whole[0]["skipped"] <= 1

    def stop(log: RunLog, values: dict, samples: int) -> None:
        if values["step"] == 4:
            raise StoppedError
        line(log, values, samples)

    line = RunLog.line
    monkeypatch.setattr(RunLog, "line", stop)
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    train(recipe, tmp_path / "stopped", resume=True)
    for a, b in zip(whole, log_lines(tmp_path / "stopped"), strict=True):
        assert {**a, "samples_per_s": 0} == {**b, "samples_per_s": 0}
    one, two = (
        load_file(str(tmp_path / name / "state" / "weights.safetensors"))
        for name in ("whole", "stopped")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0, msg=name)
    (tmp_path / "shards" / "000005.tar").unlink()
    with pytest.raises(UsageError, match="same shards"):
        train(recipe, tmp_path / "stopped", resume=True)
    with pytest.raises(UsageError, match=r"data\.val is read by number"):
        train(load_recipe(recipe_file, ["data.val=[a.tar]"]), tmp_path / "val")
