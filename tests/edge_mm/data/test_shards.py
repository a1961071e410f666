"""Shards: the same samples in another order, resumable, shared out between ranks."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mm.data.questions import MAKERS
from edge_mm.data.scenes import read_scenes
from edge_mm.data.shards import Sample, ShardStream, write_shards
from edge_mm_runtime.errors import ImageError, UsageError

COUNT, PER_SHARD = 23, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    scenes = []
    for n in range(COUNT):
        cv2.imwrite(str(folder / f"{n}.JPG"), np.full((8, 12, 3), 10 * n, np.uint8))
        cv2.imwrite(str(folder / f"{n}-ids.png"), np.full((8, 12), n % 3, np.uint8))
        item = {"id": 1, "kind": "cup", "color": "red", "box_xyxy": [1, 2, 3, 4], "size_m": 0.1}
        scene = {"id": f"s{n}", "image": f"{n}.JPG", "width": 12, "height": 8, "objects": [item]}
        scenes.append(scene | {"segmentation": None if n % 2 else f"{n}-ids.png"})
    asked = {"pictures": [{"file": "3.JPG", "questions": [{"text": "dark?", "answer": "yes"}]}]}
    (folder / "questions.json").write_text(json.dumps(asked))
    (folder / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": scenes}))
    return folder


@pytest.fixture()
def shards(folder: Path, tmp_path: Path) -> Path:
    write_shards(folder, tmp_path / "shards", PER_SHARD)
    return tmp_path / "shards"


def stream(
    shards: Path, seed: int = 1, buffer: int = 6, rank: int = 0, world: int = 1
) -> ShardStream:
    return ShardStream([shards / "*.tar"], seed, buffer, rank, world)


def names(samples: Iterator[Sample] | ShardStream) -> list[str]:
    return [sample.scene.id for sample in samples]


def test_a_shard_is_a_webdataset(folder: Path, shards: Path, tmp_path: Path) -> None:
    with tarfile.open(shards / "000000.tar") as tar:
        assert tar.getnames()[:5] == [
            "000000.jpg", "000000.json", "000000.seg.png", "000001.jpg", "000001.json",
        ]  # fmt: skip
    assert len(list(shards.iterdir())) == -(-COUNT // PER_SHARD)
    again = write_shards(folder, tmp_path / "again", PER_SHARD)
    assert all(path.read_bytes() == (shards / path.name).read_bytes() for path in again)


def test_samples_come_back_as_they_were(folder: Path, shards: Path) -> None:
    scenes = {scene.id: scene for scene in read_scenes(folder)}
    seen = set()
    for scene, frame, segmentation, questions, types in stream(shards):
        original = scenes[scene.id]
        assert scene.objects == original.objects
        assert frame == (folder / original.image).read_bytes()
        ids = original.segmentation and (folder / original.segmentation).read_bytes()
        assert segmentation == ids
        assert types == tuple(MAKERS)
        assert [q.answer for q in questions] == (["yes"] if scene.id == "s3" else [])
        seen.add(scene.id)
    assert seen == set(scenes)


def test_the_order_is_the_seeds(shards: Path) -> None:
    first, again, other = (names(stream(shards, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other) and first != sorted(first)
    passes = stream(shards)
    assert names(passes) == first != names(passes)  # the next pass has its own order
    in_order = names(stream(shards, buffer=1))
    assert sorted(in_order) == sorted(first) != in_order  # shards are shuffled even so


@pytest.mark.parametrize("taken", [0, 1, 9, COUNT - 1, COUNT, COUNT + 5])
def test_a_resumed_stream_yields_exactly_the_rest(shards: Path, taken: int) -> None:
    whole = stream(shards)
    expected = names(whole) + names(whole)
    interrupted = stream(shards)
    begun = names(itertools.islice(interrupted, taken))
    if taken > COUNT:
        begun += names(itertools.islice(interrupted, taken - COUNT))
    state = json.loads(json.dumps(interrupted.state()))
    resumed = stream(shards)
    resumed.load_state(state)
    rest = []
    while len(rest) < len(expected) - taken:
        rest += names(resumed)
    assert begun + rest[: len(expected) - taken] == expected


def test_ranks_share_the_data(shards: Path) -> None:
    ranks = [stream(shards, rank=rank, world=2) for rank in range(2)]
    for _ in range(2):  # in every pass
        first, second = (names(rank) for rank in ranks)
        assert first and second and not set(first) & set(second)
        assert len(first) + len(second) == COUNT == len({*first, *second})


def rewrite(shard: Path, change: dict[str, bytes | None]) -> None:
    """Replace members of a shard; None takes one out."""
    with tarfile.open(shard) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as tar:
        for name, data in (files | change).items():
            if data is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"000005.jpg": b"no picture"}, "jpg is not a picture"),
        ({"000005.jpg": None}, "needs a picture and json"),
        ({"000005.json": b"{"}, "truncated"),
        ({"000005.json": b'{"id": "s5"}'}, "missing required field"),
        ({"000006.seg.png": b""}, "seg.png is not a picture"),
    ],
)
def test_a_corrupt_sample_is_skipped_and_counted(
    shards: Path, capsys: pytest.CaptureFixture[str], change: dict[str, bytes | None], reason: str
) -> None:
    rewrite(shards / "000001.tar", change)
    key = next(iter(change)).partition(".")[0]
    damaged = stream(shards)
    got = names(damaged)
    assert sorted(got) == sorted({f"s{n}" for n in range(COUNT)} - {f"s{int(key)}"})
    assert damaged.skipped == 1 == damaged.state()["skipped"]
    line = capsys.readouterr().err
    assert f"sample {key}" in line and "000001.tar" in line and reason in line
    resumed = stream(shards)
    resumed.load_state(damaged.state() | {"pass": 0, "taken": 12})
    assert set(names(resumed)) <= set(got)


def test_what_follows_damage_is_lost_loudly(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(shards / "000000.tar") as tar:
        header = tar.getmember("000002.json").offset
    broken = bytearray((shards / "000000.tar").read_bytes())
    broken[header : header + 100] = b"\xff" * 100
    (shards / "000000.tar").write_bytes(broken)
    cut = (shards / "000001.tar").read_bytes()
    (shards / "000001.tar").write_bytes(cut[:700])
    (shards / "000002.tar").write_bytes(b"no tar at all, but long enough to be one" * 50)
    damaged = stream(shards)
    assert set(names(damaged)) == {"s0", "s1", *(f"s{n}" for n in range(12, COUNT))}
    err = capsys.readouterr().err
    assert all(f"00000{n}.tar" in err for n in range(3)) and "rest of the shard is lost" in err
    assert damaged.skipped == len(err.splitlines())


def test_mistakes_are_named(folder: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no shard matches .*\.gz"):
        ShardStream([shards / "*.gz"], 1, 5)
    with pytest.raises(UsageError, match="rank 2 is not in"):
        stream(shards, rank=2, world=2)
    with pytest.raises(UsageError, match="6 shards cannot feed 7 processes"):
        stream(shards, world=7)
    with pytest.raises(UsageError, match="stream with seed 1, this one has 2"):
        stream(shards, seed=2).load_state(stream(shards).state())
    state = stream(shards).state()
    (shards / "000005.tar").unlink()
    with pytest.raises(UsageError, match="same shards"):
        stream(shards).load_state(state)
    with pytest.raises(UsageError, match="at least one sample"):
        write_shards(folder, tmp_path / "none", 0)
    with pytest.raises(UsageError, match="exists already"):
        write_shards(folder, shards, 5)
    scene = {"id": "a", "image": "gone.png", "width": 9, "height": 9, "objects": []}
    (tmp_path / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": [scene]}))
    with pytest.raises(ImageError, match=r"gone\.png: No such file.*edge-mm data check"):
        write_shards(tmp_path, tmp_path / "lost", 5)
    assert not (tmp_path / "lost").exists() and not (tmp_path / "lost.tmp").exists()
