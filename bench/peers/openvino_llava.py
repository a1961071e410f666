"""OpenVINO GenAI's VLMPipeline as a worker.

python bench/peers/openvino_llava.py FOLDER PICTURES.npy QUESTION THREADS
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import openvino
import openvino_genai

from bench.lib.pictures import PictureEngine, serve_pictures


class OpenVino(PictureEngine):
    """The pipeline puts the picture and the chat template itself."""

    def __init__(self, folder: str, question: str, threads: int) -> None:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.VLMPipeline(folder, "CPU", **settings)
        self._question = question

    def first(self, picture: np.ndarray) -> None:
        """An answer of one token."""
        self._generate(picture, max_new_tokens=1)

    def say(self, picture: np.ndarray, tokens: int) -> str:
        """An end of text does not end it."""
        return str(self._generate(picture, max_new_tokens=tokens, ignore_eos=True).texts[0])

    def decode_ms(self, picture: np.ndarray, tokens: int) -> float:
        """By its own measure of the time of a token after the first."""
        found = self._generate(picture, max_new_tokens=tokens + 1, ignore_eos=True)
        return float(found.perf_metrics.get_tpot().mean) * tokens

    def _generate(self, picture: np.ndarray, **settings: Any) -> Any:
        config = openvino_genai.GenerationConfig(do_sample=False, **settings)
        image = openvino.Tensor(picture[None])
        return self._pipeline.generate(self._question, images=[image], generation_config=config)


def main() -> None:
    folder, pictures, question, threads = sys.argv[1:]
    serve_pictures(OpenVino(folder, question, int(threads)), np.load(pictures))


if __name__ == "__main__":
    main()
