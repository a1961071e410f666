"""`edge-mm ask`, called as the command line calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime.commands import ask
from edge_mm_runtime.errors import BundleError, ImageError, UsageError
from edge_mm_runtime.image import read_image, write_image

Spoken = Callable[..., Path]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "table.png"
    write_image(path, np.full((60, 80, 3), 90, np.uint8))
    return str(path)


def test_json(spoken_bundle: Spoken, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(spoken_bundle("<ref>red cup</ref><box>"))
    assert ask.main([picture, "find the red cup", "--bundle", folder, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["text"] == "red cup"
    assert set(shown["objects"][0]) == {"label", "box_xyxy", "point_xy", "confidence"}


def test_words_and_a_saved_picture(
    spoken_bundle: Spoken, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, saved = str(spoken_bundle("<ref>red cup</ref><box>")), tmp_path / "out.png"
    ask.main([picture, "find it", "--bundle", folder, "--mode", "locate", "--save", str(saved)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "red cup"
    assert lines[1].startswith("  red cup  1.00  box 20.0 15.0 36.8 25.2  point ")
    assert lines[2].endswith(" ms")
    assert (read_image(saved) != read_image(picture)).any()


def test_words_are_printed_with_their_confidence(
    spoken_bundle: Spoken, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask.main([picture, "is there a cup?", "--bundle", str(spoken_bundle("yes", doubt=1.0))])
    assert capsys.readouterr().out.splitlines()[0] == "yes  0.73"  # sigmoid(1)


def test_an_answer_that_was_cut_says_so(
    tiny_bundle: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask.main([picture, "tell", "--bundle", str(tiny_bundle), "--mode", "caption"])
    assert capsys.readouterr().out.strip().endswith("cut short (length)")


def test_bad_input(spoken_bundle: Spoken, picture: str, tmp_path: Path) -> None:
    folder = str(spoken_bundle("yes"))
    with pytest.raises(ImageError, match="no such picture"):
        ask.main([str(tmp_path / "no.jpg"), "cup", "--bundle", folder])
    with pytest.raises(UsageError, match="the text is empty"):
        ask.main([picture, "", "--bundle", folder])
    with pytest.raises(BundleError, match="no bundle at"):
        ask.main([picture, "cup", "--bundle", str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="threads is 0"):
        ask.main([picture, "cup", "--bundle", folder, "--threads", "0"])
