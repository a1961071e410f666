"""Bundles: what is written is read; damage, other schemas and escapes are named."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_mm_runtime import bundle as bundle_module
from edge_mm_runtime.bundle import Grounding, load_bundle, write_manifest
from edge_mm_runtime.errors import BundleError, EdgeMMError

OTHER_FILES = (  # what an export writes beside graphs and tokenizer
    "LICENSE",
    "chat_template.jinja",
    "decoder.cpu.onnx.data",
    "references/00.png",
    "references/references.json",
    "report.html",
)


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change bundle.json and give it the right hash again."""
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    rewrite(folder, json.dumps(manifest))


def rewrite(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "bundle.json.sha256").write_text(f"{digest}  bundle.json\n")


def corrupt(path: Path, kind: str, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[draw.randrange(len(data))] ^= draw.randint(1, 255)
    elif kind == "truncate":
        del data[draw.randrange(len(data)) :]
    elif kind == "extra":
        data += draw.randbytes(draw.randint(1, 16))
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(data)


def test_what_is_written_is_read(folder: Path) -> None:
    first = load_bundle(folder)
    assert {entry.path for entry in first.manifest.files} == {
        "decoder.cpu.onnx",
        "tokenizer.json",
        "vision.cpu.onnx",
    }
    (folder / "engines").mkdir()
    (folder / "engines" / "x.engine").write_bytes(b"built here")
    (folder / "LICENSE").write_text("Apache-2.0")
    written = write_manifest(folder, first.manifest)
    assert load_bundle(folder).manifest == written
    added = {entry.path for entry in written.files} - {entry.path for entry in first.manifest.files}
    assert added == {"LICENSE"}
    assert not list(folder.glob(".*"))


def test_a_wrong_hash_is_named(folder: Path) -> None:
    path = folder / "decoder.cpu.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"decoder.cpu.onnx has a wrong hash: copy or export"):
        load_bundle(folder)
    load_bundle(folder, verify="size")  # the fast mode does not see it


def test_a_cut_or_missing_file_is_named(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"tokenizer.json has 100 bytes instead of \d+"):
        load_bundle(folder, verify="size")
    path.unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json is missing"):
        load_bundle(folder, verify="size")


def test_another_schema_names_both(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(schema=2, files="moved elsewhere"))
    with pytest.raises(BundleError, match=r"schema 2, this edge-mm reads schema 1: update edge-mm"):
        load_bundle(folder)
    edit(folder, lambda manifest: manifest.update(schema=0))
    with pytest.raises(BundleError, match="export the checkpoint again"):
        load_bundle(folder)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link"])
def test_files_outside_are_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("x")
    (folder / "link").symlink_to(folder.parent / "secret")
    edit(folder, lambda manifest: manifest["files"][0].update(path=path))
    with pytest.raises(BundleError, match="names a file outside the bundle"):
        load_bundle(folder)


def test_a_graph_that_is_not_listed_is_refused(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["graphs"]["cpu"].update(vision="../vision.onnx"))
    loaded = load_bundle(folder)
    with pytest.raises(BundleError, match=r"\.\./vision.onnx is not in its file table"):
        loaded.path(loaded.graphs("cpu").vision)
    with pytest.raises(BundleError, match="no graphs for target 'cuda', it has: cpu"):
        loaded.graphs("cuda")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": "1"}'])
def test_a_damaged_manifest_is_named(folder: Path, text: str) -> None:
    rewrite(folder, text)
    with pytest.raises(BundleError, match=r"bundle.json is damaged"):
        load_bundle(folder)


def test_another_valid_value_in_the_manifest_is_refused(folder: Path) -> None:
    path = folder / "bundle.json"
    text = path.read_text()
    path.write_text(text.replace('"existence_threshold": 0.0', '"existence_threshold": 0.9'))
    assert path.read_text() != text
    for verify in ("hash", "size"):
        with pytest.raises(BundleError, match=r"bundle.json has not the hash in bundle"):
            load_bundle(folder, verify=verify)  # type: ignore[arg-type]
    path.write_text(text)
    load_bundle(folder)
    (folder / "bundle.json.sha256").unlink()
    with pytest.raises(BundleError, match=r"bundle.json.sha256 is missing: .*older edge-mm"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("grounding", {"codec": "klingon"}, r"'klingon' - at `\$.grounding.codec`"),
        ("grounding", {"codec": "paligemma"}, "codec paligemma has no region head"),
        ("grounding", {"bins": 0}, "bins is 0"),
        ("decoder", {"rope_grid": [4, 5]}, "rope_grid is 4 x 5, the prompt has 16 image tokens"),
        ("decoder", {"rope_grid": [0, 16]}, "rows and columns are at least 1"),
        ("decoder", {"rope_grid": [16]}, "rope_grid"),
        ("decoder", {"image_size": 0}, "image_size is 0"),
        ("prompt", {"modes": {"find": "detect {text}"}}, "modes has 'find'"),
        ("prompt", {"modes": {"locate": "detect"}}, "without {text} in it"),
    ],
)
def test_what_cannot_be_is_refused_on_reading(
    folder: Path, part: str, change: dict[str, Any], named: str
) -> None:
    edit(folder, lambda manifest: manifest[part].update(change))
    with pytest.raises(BundleError, match=f"bundle.json is damaged: .*{named}"):
        load_bundle(folder)


def test_a_bundle_of_before_is_read_as_before(folder: Path) -> None:
    """Without the fields that came later, as the shipped bundle is."""

    def forget(manifest: dict[str, Any]) -> None:
        for name in ("rope_grid", "image_size", "prefix_reuse"):
            del manifest["decoder"][name]
        del manifest["prompt"]["modes"]

    before = load_bundle(folder).manifest
    edit(folder, forget)
    read = load_bundle(folder).manifest
    assert read == before
    assert read.decoder.prefix_reuse and read.decoder.rope_grid is None
    assert read.decoder.image_row == read.decoder.hidden_size
    assert Grounding("paligemma") == Grounding("paligemma", 128, "tokens")
    shipped = load_bundle("default", verify="size").manifest
    assert (shipped.grounding.codec, shipped.grounding.box_source) == ("edge_mm", "head")
    assert shipped.decoder.prefix_reuse and not shipped.prompt.modes


def test_200_random_corruptions_are_refused_by_name(folder: Path) -> None:
    (folder / "references").mkdir()
    for name in OTHER_FILES:
        (folder / name).write_bytes(name.encode() * 20)
    write_manifest(folder, load_bundle(folder).manifest)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    every = list(itertools.product(files, ["flip", "truncate", "extra", "delete"]))
    assert len(every) == 4 * (5 + len(OTHER_FILES))
    draw = random.Random(20261122)
    for path, kind in itertools.islice(itertools.cycle(every), 200):
        whole = path.read_bytes()
        corrupt(path, kind, draw)
        with pytest.raises(EdgeMMError) as refusal:
            load_bundle(folder)
        message = str(refusal.value)
        assert path.name in message and "\n" not in message, (path, kind, message)
        path.write_bytes(whole)
    load_bundle(folder)


def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    manifest = load_bundle(folder).manifest
    (folder / ".bundle.json.tmp").mkdir()  # root may write anywhere, but not into this
    with pytest.raises(BundleError, match=r"cannot write .*bundle.json: "):
        write_manifest(folder, manifest)


def test_an_unknown_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere: give a folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"cannot read .*: File name too long"):
        load_bundle(tmp_path / ("n" * 300))
    monkeypatch.setattr(bundle_module, "DEFAULT_FOLDER", tmp_path)
    with pytest.raises(BundleError, match="the shipped bundle is missing"):
        load_bundle("default")
