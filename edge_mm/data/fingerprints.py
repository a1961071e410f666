"""Which pictures are the same, or nearly: byte hashes, difference hashes and thumbnails.

A difference hash says of each of 8 x 8 places whether the picture grows brighter to the right
(N. Krawetz, "Kind of like that", 2013). It survives scaling, compression and some light; pictures
without much structure share hashes, so a thumbnail has the last word. Mirrored and cropped pictures
are not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

DISTANCE = 6  # bits of 64 that near duplicates may differ in
TOLERANCE = 4.0  # mean difference of their thumbnails, grey levels
SIDE = 16  # of a thumbnail
BLOCK = 2_000_000  # pairs compared at once: 16 MB of differences

_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


class Fingerprint(NamedTuple):
    """Of one picture file."""

    name: str
    digest: bytes  # of the file
    bits: int  # the difference hash, 64 bits
    thumbnail: np.ndarray  # float32 [SIDE*SIDE], grey levels around their mean


def fingerprint(name: str, data: bytes, frame: np.ndarray) -> Fingerprint:
    """`data` are the bytes of the file, `frame` is what it shows, BGR."""
    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    return Fingerprint(name, hashlib.sha256(data).digest(), dhash(gray), small - small.mean())


def dhash(gray: np.ndarray) -> int:
    """Grey picture uint8 [H,W] -> 64 bits."""
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
    brighter = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(brighter).tobytes(), "big")


def same(prints: Sequence[Fingerprint]) -> Iterator[tuple[Fingerprint, Fingerprint]]:
    """(picture, an earlier one with the same bytes)."""
    first: dict[bytes, Fingerprint] = {}
    for item in prints:
        earlier = first.setdefault(item.digest, item)
        if earlier is not item:
            yield item, earlier


def similar(
    prints: Sequence[Fingerprint], others: Sequence[Fingerprint] | None = None
) -> Iterator[tuple[Fingerprint, Fingerprint]]:
    """(picture, the first of the others that looks like it); without `others`, an earlier one.

    All pairs are compared, in blocks: 10 000 pictures are 50 million pairs, some seconds.
    """
    if not prints or others == []:
        return
    earlier_only = others is None
    others = prints if others is None else others
    hashes = np.array([item.bits for item in others], np.uint64)
    thumbnails = np.stack([item.thumbnail for item in others])
    step = max(1, BLOCK // len(others))
    for start in range(0, len(prints), step):
        block = prints[start : start + step]
        bits = np.array([item.bits for item in block], np.uint64)
        near = distances(bits, hashes) <= DISTANCE
        if earlier_only:
            near &= np.arange(len(others)) < np.arange(start, start + len(block))[:, None]
        for row in np.flatnonzero(near.any(1)).tolist():
            candidates = np.flatnonzero(near[row])
            apart = np.abs(thumbnails[candidates] - block[row].thumbnail).mean(1)
            if (alike := candidates[apart <= TOLERANCE]).size:
                yield block[row], others[int(alike[0])]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hashes uint64 [M] and [N] -> how many bits differ, [M,N]."""
    differing = (a[:, None] ^ b[None, :]).view(np.uint8).reshape(len(a), len(b), 8)
    counts: np.ndarray = _ONES[differing].sum(-1, dtype=np.uint8)
    return counts
