"""A bundle of a LLaVA behind the runtime's Session as a worker; its process imports no torch.

python bench/peers/edge_mm_llava.py BUNDLE PICTURES.npy QUESTION THREADS, requests: those of
bench/lib/pictures.py.
"""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path

import numpy as np

from bench.lib.pictures import PictureEngine, serve_pictures
from edge_mm_runtime import Session
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.decoder import Decoder
from edge_mm_runtime.graphs import default_target, open_graph
from edge_mm_runtime.vocabulary import open_tokenizer


class Ours(PictureEngine):
    """A Session; single steps are taken with a Decoder on the same graphs."""

    def __init__(self, bundle: str, question: str, threads: int) -> None:
        opened = load_bundle(Path(bundle))
        self._target = default_target(opened, "cpu")
        self._vision = open_graph(opened, "vision", self._target, threads, "cpu")
        self._runner = open_graph(opened, "decoder", self._target, threads, "cpu")
        self._manifest, self._question = opened.manifest, question
        self._session = Session(opened, vision=self._vision, decoder=self._runner)
        self._tokenizer, vocabulary = open_tokenizer(opened)
        rows = count(opened.manifest.decoder.vocab_size)
        rendered = opened.manifest.prompt.render(question)
        ids = self._tokenizer.encode(rendered, add_special_tokens=False).ids
        # As the Session puts them: the n-th image token is row n of what the tower gave.
        self._ids = [next(rows) if token == vocabulary.image else token for token in ids]

    def first(self, picture: np.ndarray) -> None:
        """An answer of one token, as a user asks for it; pictures are BGR here."""
        self._session.ask(_bgr(picture), self._question, max_new_tokens=1)

    def say(self, picture: np.ndarray, tokens: int) -> str:
        """An end of text does not end it."""
        decoder, token = self._begin(picture)
        said = [token]
        while len(said) < tokens:
            said.append(int(decoder.extend(said[-1:]).logits.argmax()))
        return str(self._tokenizer.decode(said))

    def decode_ms(self, picture: np.ndarray, tokens: int) -> float:
        """An end of text does not end it."""
        decoder, token = self._begin(picture)
        started = time.perf_counter()
        for _ in range(tokens):
            token = int(decoder.extend([token]).logits.argmax())
        return (time.perf_counter() - started) * 1e3

    def _begin(self, picture: np.ndarray) -> tuple[Decoder, int]:
        """A decoder that has read the prompt, and the first token.

        It writes over the session's cache from its first place on, with the same ids up to the
        picture, and the session reads a new picture anew: so neither misleads the other.
        """
        pixels = self._manifest.image.apply(_bgr(picture))
        decoder = Decoder(self._runner, self._manifest.decoder, self._target)
        decoder.begin(self._ids[:1])
        decoder.set_image(self._vision.run({"pixel_values": pixels})["image_embeds"][0])
        return decoder, int(decoder.prefill(self._ids).logits.argmax())


def _bgr(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[..., ::-1])


def main() -> None:
    bundle, pictures, question, threads = sys.argv[1:]
    serve_pictures(Ours(bundle, question, int(threads)), np.load(pictures))


if __name__ == "__main__":
    main()
