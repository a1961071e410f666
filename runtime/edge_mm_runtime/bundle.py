"""The bundle: a folder that the exporter writes and the robot reads, described by bundle.json.

Paths in it are relative and may not leave the folder; sizes and hashes of all files are checked
before a graph is loaded: those in bundle.json, and that of bundle.json itself, which lies beside it
as `sha256sum bundle.json` prints it. The structs below are the schema; a folder of another schema
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.hashes import files_sha256, hash_line
from edge_mm_runtime.image import ImageTransform
from edge_mm_runtime.prompt import Prompt

SCHEMA = 1
MANIFEST = "bundle.json"
MANIFEST_HASH = "bundle.json.sha256"
BUILT_ON_DEVICE = "engines"  # engines lie in the bundle's folder without being part of it
DEFAULT = "default"
DEFAULT_FOLDER = Path(__file__).parent / "bundles" / "nano"


class Provenance(msgspec.Struct, frozen=True):
    """Where the bundle comes from; `tools` maps a tool to its version, `created` is ISO 8601."""

    checkpoint_sha256: str
    recipe: str
    tools: dict[str, str]
    created: str


class Confidence(msgspec.Struct, frozen=True):
    """Calibration of the confidence, fitted on held-out data (see confidence.calibrate).

    temperature        of located things
    words_temperature  of answers in words and of "not in view"; None: they are not calibrated
    """

    temperature: float
    words_temperature: float | None = None


CodecName = Literal[
    "edge_mm",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "paligemma",
    "internvl",
    "kosmos2",
    "florence2",
    "molmo",
    "none",
]


class Grounding(msgspec.Struct, frozen=True):
    """How the model names places.

    codec                the words and numbers that it names them by (see codecs); none: it was not
                         taught to, and only free text can be asked of it
    bins                 location bins of a side, of the edge_mm codec
    box_source           head: a region head points, the location tokens are appended unsampled;
                         tokens: the model speaks the location tokens itself
    existence_threshold  below this p(<ref>) / (p(<ref>) + p(<none>)) the answer is <none>;
                         None: whichever is likelier
    """

    codec: CodecName
    bins: int = 128
    box_source: Literal["head", "tokens"] = "tokens"
    existence_threshold: float | None = None
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins is {self.bins}, a side has at least 1")
        if self.codec != "edge_mm" and self.box_source == "head":
            raise ValueError(f"codec {self.codec} has no region head: box_source is tokens")


class DecoderGeometry(msgspec.Struct, frozen=True):
    """Sizes of the decoder; `context` is the capacity of the key/value cache in tokens.

    rope_grid     rows and columns of a picture's tokens, where they turn by them: the graph takes
                  `rope_positions` (see rope.py). None: every id turns by its place alone
    image_size    floats in a row of image_embeds; None: hidden_size
    prefix_reuse  whether what the cache holds of a prompt is right for another one that begins
                  alike; not where the whole prompt sees itself (PaliGemma)
    """

    layers: int
    kv_heads: int
    head_dim: int
    context: int
    vocab_size: int
    hidden_size: int
    rope_grid: tuple[int, int] | None = None
    image_size: int | None = None
    prefix_reuse: bool = True

    def __post_init__(self) -> None:
        if self.rope_grid is not None and min(self.rope_grid) < 1:
            raise ValueError(f"rope_grid is {self.rope_grid}: rows and columns are at least 1")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}, a row has at least 1 float")

    @property
    def image_row(self) -> int:
        """Floats in a row of image_embeds."""
        return self.image_size or self.hidden_size


class GraphSet(msgspec.Struct, frozen=True):
    """The graphs of one target, as paths in the bundle.

    first_alone  whether the first id of a prompt is read in a pass of its own, see `Decoder.begin`
    """

    vision: str
    decoder: str
    precision: str
    first_alone: bool = False


class FileEntry(msgspec.Struct, frozen=True):
    """One file of the bundle."""

    path: str
    bytes: int
    sha256: str


class BundleManifest(msgspec.Struct, frozen=True, kw_only=True):
    """bundle.json."""

    schema: int = SCHEMA
    name: str
    family: str
    licence: str
    provenance: Provenance
    image: ImageTransform
    prompt: Prompt
    tokenizer: str = "tokenizer.json"
    stop_ids: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    grounding: Grounding
    decoder: DecoderGeometry
    graphs: dict[str, GraphSet]
    files: tuple[FileEntry, ...] = ()
    verification: dict[str, Any] = {}
    memory_estimate_bytes: int = 0

    def __post_init__(self) -> None:
        grid, tokens = self.decoder.rope_grid, self.prompt.image_token_count
        if grid is not None and grid[0] * grid[1] != tokens:
            raise ValueError(
                f"decoder.rope_grid is {grid[0]} x {grid[1]}, the prompt has {tokens} image tokens"
            )


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked."""

    folder: Path
    manifest: BundleManifest

    def path(self, relative: str) -> Path:
        """A file of the bundle; BundleError unless the file table lists it."""
        if all(entry.path != relative for entry in self.manifest.files):
            raise BundleError(f"{self.folder / MANIFEST}: {relative} is not in its file table")
        return self.folder / relative

    def graphs(self, target: str) -> GraphSet:
        """The graphs of a target; BundleError naming the targets that the bundle has."""
        found = self.manifest.graphs.get(target)
        if found is None:
            have = ", ".join(sorted(self.manifest.graphs)) or "none"
            raise BundleError(f"{self.folder} has no graphs for target {target!r}, it has: {have}")
        return found


def load_bundle(
    path_or_name: str | Path = DEFAULT, verify: Literal["hash", "size"] = "hash"
) -> Bundle:
    """Read and check a bundle: a folder, or "default" for the one shipped in this package."""
    folder = DEFAULT_FOLDER if str(path_or_name) == DEFAULT else Path(path_or_name)
    try:
        found = (folder / MANIFEST).is_file()
    except OSError as error:  # may not be read; a name that is too long
        raise BundleError(f"cannot read {str(folder)[:200]}: {error.strerror}") from None
    if not found:
        if str(path_or_name) == DEFAULT:
            raise BundleError(
                f"the shipped bundle is missing ({folder}): reinstall edge-mm, or name a bundle "
                "folder made by `edge-mm export`"
            )
        raise BundleError(
            f"no bundle at {folder}: give a folder with a {MANIFEST} in it (`edge-mm export` "
            f"makes one), or {DEFAULT!r}"
        )
    manifest = _read_manifest(folder / MANIFEST)
    for entry in manifest.files:
        _check_file(folder, entry, verify)
    return Bundle(folder, manifest)


def write_manifest(folder: Path, manifest: BundleManifest) -> BundleManifest:
    """Fill the file table from what lies in `folder`, write bundle.json and its hash.

    Returns the manifest as written.
    """
    entries = tuple(
        FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, files_sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.relative_to(folder).parts[0] not in (MANIFEST, MANIFEST_HASH, BUILT_ON_DEVICE)
    )
    manifest = msgspec.structs.replace(manifest, files=entries)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    for name, data in ((MANIFEST, text), (MANIFEST_HASH, hash_line(text, MANIFEST))):
        temporary = folder / f".{name}.tmp"
        try:
            temporary.write_bytes(data)
            temporary.replace(folder / name)
        except OSError as error:
            raise BundleError(f"cannot write {folder / name}: {error.strerror}") from None
    return manifest


class _Schema(msgspec.Struct):
    schema: int


def _read_manifest(path: Path) -> BundleManifest:
    try:
        data = path.read_bytes()
        _check_hash(path, data)
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            mend = "update edge-mm" if schema > SCHEMA else "export the checkpoint again"
            raise BundleError(
                f"{path} has bundle schema {schema}, this edge-mm reads schema {SCHEMA}: {mend}"
            )
        return msgspec.json.decode(data, type=BundleManifest)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{path} is damaged: {error}: export the bundle again") from None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None


def _check_hash(path: Path, data: bytes) -> None:
    """Whether bundle.json is what was written: one byte of it may be another valid value."""
    written = path.with_name(MANIFEST_HASH)
    if not written.is_file():
        raise BundleError(
            f"{path.parent}: {MANIFEST_HASH} is missing: copy the whole bundle, or export it again "
            "if an older edge-mm wrote it"
        )
    if written.read_bytes() != hash_line(data, MANIFEST):
        raise BundleError(
            f"{path} has not the hash in {MANIFEST_HASH}: copy or export the bundle again"
        )


def _check_file(folder: Path, entry: FileEntry, verify: str) -> None:
    path = folder / entry.path
    relative = PurePosixPath(entry.path)
    inside = path.resolve().is_relative_to(folder.resolve())
    if relative.is_absolute() or ".." in relative.parts or not inside:
        raise BundleError(f"{folder / MANIFEST} names a file outside the bundle: {entry.path}")
    if not path.is_file():
        raise BundleError(f"{folder}: {entry.path} is missing: copy or export the bundle again")
    try:
        size = path.stat().st_size
        wrong = size != entry.bytes or (verify == "hash" and files_sha256(path) != entry.sha256)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    if wrong:
        what = f"{size} bytes instead of {entry.bytes}" if size != entry.bytes else "a wrong hash"
        raise BundleError(f"{path} has {what}: copy or export the bundle again")
