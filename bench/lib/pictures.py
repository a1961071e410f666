"""The worker's side for models of pictures and words: one question, a new picture each time.

    {"first_token": 40}          -> ms from a picture that was never seen to its first token
    {"decode": 64}               -> ms of so many single steps after such a picture
    {"say": 16, "picture": 3}    -> what it says in so many tokens about that picture
    {"memory": true}             -> MB, peak of resident memory

The standard library and numpy alone, as `workers`: a peer runs in its own environment.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.lib.workers import serve


class PictureEngine:
    """What a worker wraps around an engine; the question is given when it is made."""

    def first(self, picture: np.ndarray) -> None:
        """Up to the first token. picture: uint8 [H, W, 3], RGB, here and below."""
        raise NotImplementedError

    def say(self, picture: np.ndarray, tokens: int) -> str:
        """So many tokens in words, greedily; an end of text does not end it."""
        raise NotImplementedError

    def decode_ms(self, picture: np.ndarray, tokens: int) -> float:
        """Time of single steps after the prompt and its first token."""
        raise NotImplementedError


def serve_pictures(engine: PictureEngine, pictures: np.ndarray) -> None:
    """Answer the requests above until the input ends. pictures: uint8 [N, H, W, 3]."""
    seen = 0

    def new_picture() -> np.ndarray:
        """One of them, shifted further each time round: no cache has seen it."""
        nonlocal seen
        shift, number = divmod(seen, len(pictures))
        seen += 1
        return np.roll(pictures[number], 4 * (shift + 1), axis=1)

    def answer(request: dict[str, Any]) -> Any:
        match request:
            case {"first_token": _}:
                picture = new_picture()
                started = time.perf_counter()
                engine.first(picture)
                return (time.perf_counter() - started) * 1e3
            case {"decode": tokens}:
                return engine.decode_ms(new_picture(), tokens)
            case {"say": tokens, "picture": number}:
                return engine.say(pictures[number], tokens)
        raise ValueError(f"no request about pictures: {request}")

    serve(answer)
