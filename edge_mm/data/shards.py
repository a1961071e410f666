"""WebDataset shards: tar files with a picture, its labels and its segmentation a sample.

    000123.jpg   the picture, as it was encoded
    000123.json  the scene as in scenes.json, with the questions that came with it
    000123.seg.png   object ids, where the data has them

The layout is that of https://github.com/webdataset/webdataset: files of one sample follow one
another and share their name up to the first dot. A shard is an uncompressed local tar file; only
its headers are read ahead of time, so shuffling holds names and not pictures.
"""

from __future__ import annotations

import glob
import hashlib
import io
import random
import sys
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

from edge_mm.data.folders import new_folder
from edge_mm.data.formats.given import answerable, given_questions
from edge_mm.data.questions import Question
from edge_mm.data.scenes import Scene, read_scenes
from edge_mm_runtime.errors import ImageError, UsageError

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp")
LABELS, SEGMENTATION = "json", "seg.png"


class _Labels(Scene, frozen=True):
    """A scene with its own questions: the JSON of a sample.

    `answerable` is what given.answerable says of the whole data, which a single scene cannot tell.
    """

    questions: tuple[Question, ...] = ()
    answerable: tuple[str, ...] | None = None


class Sample(NamedTuple):
    """One picture of a shard; `frame` and `segmentation` as they are encoded.

    `answerable` are the types of questions that may be made of its labels.
    """

    scene: Scene
    frame: bytes
    segmentation: bytes | None
    questions: tuple[Question, ...]
    answerable: tuple[str, ...]


class _Entry(NamedTuple):
    """Where a sample lies: extension -> offset and bytes in the shard; or the `damage` there."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]
    damage: str | None = None


def write_shards(folder: Path, out: Path, per_shard: int) -> list[Path]:
    """A data folder -> `out/000000.tar` ..., `per_shard` samples each; returns their paths.

    The bytes depend on the data only. UsageError when `out` exists, ImageError when a file of a
    scene is missing.
    """
    if per_shard < 1:
        raise UsageError(f"per_shard is {per_shard}: a shard holds at least one sample")
    folder, scenes = Path(folder), read_scenes(folder)
    if not scenes:
        raise UsageError(f"{folder} has no scenes")
    given, types = given_questions(folder), answerable(scenes)
    names: list[str] = []
    with new_folder(out) as temporary:
        for start in range(0, len(scenes), per_shard):
            names.append(f"{len(names):06d}.tar")
            with tarfile.open(temporary / names[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
                for number, scene in enumerate(scenes[start : start + per_shard], start):
                    asked = given.get(scene.id, ())
                    for name, data in _files(folder, scene, asked, types, number):
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
    return [Path(out) / name for name in names]


def _files(
    folder: Path,
    scene: Scene,
    questions: tuple[Question, ...],
    types: tuple[str, ...],
    number: int,
) -> Iterator[tuple[str, bytes]]:
    key = f"{number:06d}"
    image = f"{key}{Path(scene.image).suffix.lower()}"
    segmentation = f"{key}.{SEGMENTATION}" if scene.segmentation else None
    fields = msgspec.structs.asdict(scene) | {"image": image, "segmentation": segmentation}
    labels = _Labels(**fields | {"depth": None}, questions=questions, answerable=types)
    yield image, _read_bytes(folder / scene.image)
    yield f"{key}.{LABELS}", msgspec.json.encode(labels)
    if scene.segmentation:
        yield f"{key}.{SEGMENTATION}", _read_bytes(folder / scene.segmentation)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot read {path}: {error.strerror}; `edge-mm data check` lists all such files"
        ) from None


class ShardStream:
    """The samples of some shards in shuffled order, pass by pass; one rank of `world` gets its own.

        for sample in ShardStream(["data/shards/*.tar"], seed=1, shuffle_buffer=1000): ...

    Iterating goes on from where the stream stands to the end of the pass; the next iteration is
    the next pass, in another order. In each pass every shard belongs to one rank. The order depends
    on (seed, pass, rank, world, shuffle_buffer, shards) only, so `state()` is a few numbers, and a
    stream with `load_state` yields exactly what the saved one had not. A sample that cannot be used
    is skipped, counted in `skipped`, and named on stderr.
    """

    def __init__(
        self,
        patterns: Sequence[str | Path],
        seed: int,
        shuffle_buffer: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.shards = find_shards(patterns)
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not in 0..{world - 1}")
        if len(self.shards) < world:
            raise UsageError(
                f"{len(self.shards)} shards cannot feed {world} processes: write smaller shards"
            )
        self.seed, self.shuffle_buffer = seed, max(1, shuffle_buffer)
        self.rank, self.world = rank, world
        self.pass_number, self.taken, self.skipped = 0, 0, 0

    def __iter__(self) -> Iterator[Sample]:
        entries = self._order()
        for _ in range(self.taken):
            next(entries, None)
        for entry in entries:
            self.taken += 1
            sample = self._read(entry)
            if sample is not None:
                yield sample
        self.pass_number, self.taken = self.pass_number + 1, 0

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for JSON."""
        return {
            **self._setting(),
            "pass": self.pass_number,
            "taken": self.taken,
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of another stream; UsageError when it had other shards or settings.

        Only the headers of what was taken before are read again.
        """
        for name, value in self._setting().items():
            if state.get(name) != value:
                raise UsageError(
                    f"the saved position is of a stream with {name} {state.get(name)}, this one "
                    f"has {value}: start anew, or go on with the same shards and settings"
                )
        self.pass_number, self.taken = state["pass"], state["taken"]
        self.skipped = state["skipped"]

    def _setting(self) -> dict[str, Any]:
        known = [(path.name, path.stat().st_size) for path in self.shards]
        return {
            "seed": self.seed,
            "shuffle_buffer": self.shuffle_buffer,
            "rank": self.rank,
            "world": self.world,
            "shards": hashlib.sha256(repr(known).encode()).hexdigest()[:16],
        }

    def _order(self) -> Iterator[_Entry]:
        """The entries of this pass: shards in random order, through the shuffle buffer."""
        shards = list(self.shards)
        random.Random(f"{self.seed}/{self.pass_number}").shuffle(shards)
        rng = random.Random(f"{self.seed}/{self.pass_number}/{self.rank}")
        waiting: list[_Entry] = []
        for shard in shards[self.rank :: self.world]:
            for entry in entries(shard):
                if len(waiting) < self.shuffle_buffer:
                    waiting.append(entry)
                    continue
                place = rng.randrange(len(waiting))
                yield waiting[place]
                waiting[place] = entry
        rng.shuffle(waiting)
        yield from waiting

    def _read(self, entry: _Entry) -> Sample | None:
        try:
            return read_entry(entry)
        except (ImageError, OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.skip(f"sample {entry.key} of {entry.shard}", error)
            return None

    def skip(self, where: str, error: Exception) -> None:
        """Count a sample that cannot be used, and say so."""
        self.skipped += 1
        print(f"skipped {where} ({self.skipped} in all): {error}", file=sys.stderr)


def find_shards(patterns: Sequence[str | Path]) -> list[Path]:
    """Paths and patterns with * -> tar files, sorted. UsageError when one matches nothing."""
    found: set[Path] = set()
    for pattern in patterns:
        paths = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - patterns may be absolute
        if not paths:
            raise UsageError(f"no shard matches {pattern}; `edge-mm data shard` makes them")
        found.update(Path(path) for path in paths)
    return sorted(found)


def entries(shard: Path) -> Iterator[_Entry]:
    """The samples of a shard in their order; damage ends it with an entry that says so."""
    key = "000000"
    try:
        with tarfile.open(shard, "r:") as tar:
            files = (member for member in tar if member.isfile())
            for key, members in groupby(files, lambda member: _split(member.name)[0]):
                yield _Entry(
                    shard,
                    key,
                    {_split(m.name)[1]: (m.offset_data, m.size) for m in members},
                )
            with shard.open(
                "rb"
            ) as file:  # tarfile takes any header that it cannot read as the end
                file.seek(tar.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError("a damaged header")
    except (tarfile.TarError, OSError) as error:
        yield _Entry(shard, f"after {key}", {}, f"the rest of the shard is lost: {error}")


def _split(name: str) -> tuple[str, str]:
    """Name in the tar -> key and extension, e.g. a/000123.seg.png -> a/000123, seg.png."""
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def read_entry(entry: _Entry) -> Sample:
    """The files of an entry, its pictures proven to be readable.

    ImageError, OSError or msgspec.DecodeError when the sample cannot be used.
    """
    if entry.damage:
        raise ImageError(entry.damage)
    picture = next((name for name in entry.members if name in PICTURES), None)
    if picture is None or LABELS not in entry.members:
        raise ImageError(f"it has {', '.join(entry.members)}, but needs a picture and json")
    with entry.shard.open("rb") as file:
        data = {}
        for name, (offset, size) in entry.members.items():
            file.seek(offset)
            data[name] = file.read(size)
            if len(data[name]) < size:
                raise ImageError(f"{name} is cut off")
    for name in (picture, SEGMENTATION):
        if name in data and not _decodes(data[name]):
            raise ImageError(f"{name} is not a picture that OpenCV can read")
    labels = msgspec.json.decode(data[LABELS], type=_Labels)
    types = answerable([labels]) if labels.answerable is None else labels.answerable
    return Sample(labels, data[picture], data.get(SEGMENTATION), labels.questions, types)


def _decodes(data: bytes) -> bool:
    """Whether OpenCV can read a picture; JPEG at an eighth of its size, which is quick."""
    try:
        small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error:
        return False
    return small is not None
