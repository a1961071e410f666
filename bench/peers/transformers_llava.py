"""A LLaVA of transformers as a worker.

python bench/peers/transformers_llava.py FOLDER PICTURES.npy QUESTION THREADS float32|bfloat16

Pictures have the tower's size already and are normalised here, which spares its own processor
(torchvision or Pillow); prompts are cut by the folder's tokenizer.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from bench.lib.pictures import PictureEngine, serve_pictures


class Transformers(PictureEngine):
    """The model with its own cache; logits of the last position alone."""

    def __init__(self, folder: str, question: str, dtype: str) -> None:
        self._dtype = getattr(torch, dtype)
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=self._dtype)
        self._model = model.eval()
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        rows = "<image>" * model.config.image_seq_length
        text = f"<|im_start|>user\n{rows}\n{question}<|im_end|>\n<|im_start|>assistant\n"
        self._ids = torch.tensor([self._tokenizer.encode(text).ids])

    def first(self, picture: np.ndarray) -> None:
        """Normalise, look, read the prompt, choose."""
        self._first(picture)

    def say(self, picture: np.ndarray, tokens: int) -> str:
        """An end of text does not end it."""
        said = [self._first(picture)]
        while len(said) < tokens:
            said.append(self._step(said[-1]))
        return str(self._tokenizer.decode(said))

    def decode_ms(self, picture: np.ndarray, tokens: int) -> float:
        """An end of text does not end it."""
        token = self._first(picture)
        started = time.perf_counter()
        for _ in range(tokens):
            token = self._step(token)
        return (time.perf_counter() - started) * 1e3

    def _first(self, picture: np.ndarray) -> int:
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        self._cache = None
        return self._next(input_ids=self._ids, pixel_values=pixels.to(self._dtype))

    def _step(self, token: int) -> int:
        return self._next(input_ids=torch.tensor([[token]]))

    def _next(self, **given: torch.Tensor) -> int:
        with torch.inference_mode():
            out = self._model(
                **given, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        self._cache = out.past_key_values
        return int(out.logits[0, -1].argmax())


def main() -> None:
    folder, pictures, question, threads, dtype = sys.argv[1:]
    torch.set_num_threads(int(threads))
    serve_pictures(Transformers(folder, question, dtype), np.load(pictures))


if __name__ == "__main__":
    main()
