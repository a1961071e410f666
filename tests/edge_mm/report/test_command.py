"""`edge-mm report` as it is typed, on a tiny checkpoint and drawn scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from edge_mm import cli
from edge_mm.model.checkpoint import save_checkpoint
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.train.trace import Probe, Trace


@pytest.fixture(scope="module")
def run(
    tiny_config: ModelConfig,
    tokenizer: Tokenizer,
    scene_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of two looks, with its checkpoint and its log."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "first <run>"
    model = EdgeMM(tiny_config)
    save_checkpoint(folder / "checkpoint", model, model.state_dict(), tokenizer, {})
    trace = Trace(folder, Probe([scene_folder], tiny_config, tokenizer, pictures=3), 4)
    trace.record(model, "contrastive", 0, 0)
    trace.record(model, "contrastive", 5, 40)
    line = {"stage": "contrastive", "step": 5, "samples": 40, "contrastive": 3.5}
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert cli.main(["report", str(run), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"2 looks at 3 pictures\nopen {out}\n"
    page = out.read_text()
    assert "first &lt;run&gt;" in page and page.count("<tr data-look>") == 2
    assert "<h3>contrastive</h3>" in page and "Failures" not in page


def test_a_checkpoint_alone_is_one_look_and_an_exam(
    run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    argv = ["report", str(run / "checkpoint"), "--data", str(scene_folder), "-o", str(out)]
    assert cli.main([*argv, "--limit", "2", "--questions", "3"]) == 0
    assert capsys.readouterr().out.startswith("1 look at")
    page = out.read_text()
    assert page.count("<tr data-look>") == 1 and "<td>checkpoint</td>" in page
    assert "Failures" in page and "about 2 pictures" in page
    assert 1 <= page.count("<dt>asked</dt>") <= 6


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["RUN/nothing"], "is no run and no checkpoint"),
        (["RUN/checkpoint"], "has no trace: give pictures to look at with --data"),
        (["RUN", "-o", "RUN/no/where.html"], "there is no folder"),
        (["RUN", "--data", "RUN"], "is not a data folder"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str],
    says: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *(word.replace("RUN", str(run)) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error
    assert list(tmp_path.iterdir()) == []
