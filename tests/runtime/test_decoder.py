"""The decoder's cache against a plain numpy decoder that sees all ids at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.decoder import Decoder, open_decoder
from edge_mm_runtime.errors import BundleError

Weights = dict[str, np.ndarray]
IMAGE = np.random.default_rng(1).standard_normal((16, 32)).astype(np.float32)
OTHER = np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32)
VOCAB = 448
PROMPT = [1, *range(VOCAB, VOCAB + 16), 5, 200, 201, 6]


@pytest.fixture
def decoder(tiny_bundle: Path) -> Iterator[Decoder]:
    bundle = load_bundle(tiny_bundle, verify="size")
    geometry = bundle.manifest.decoder
    with open_decoder(bundle.path("decoder.cpu.onnx"), geometry, 1) as runner:
        out = Decoder(runner, geometry)
        out.set_image(IMAGE)
        yield out


def reference(w: Weights, ids: list[int], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and region query of the last id: causal attention with rotary, in numpy."""
    x = np.concatenate([w["embedding"], image])[ids]
    size = len(ids)
    q = _rotate((x @ w["q"]).reshape(size, 2, 16), w)
    k = _rotate((x @ w["k"]).reshape(size, 1, 16), w)[:, 0]
    v = x @ w["v"]
    heads = []
    for head in range(2):
        scores = q[-1, head] @ k.T / 4.0
        mass = np.exp(scores - scores.max())
        heads.append(mass / mass.sum() @ v)
    final = x[-1] + np.concatenate(heads) @ w["o"]
    return final @ w["lm_head"], final @ w["region"]


def _rotate(x: np.ndarray, w: Weights) -> np.ndarray:
    cos, sin = (w[name][: len(x), None] for name in ("cos", "sin"))
    first, second = x[..., :8], x[..., 8:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def agree(position: object, expected: tuple[np.ndarray, np.ndarray]) -> None:
    for got, want in zip(position, expected, strict=True):  # type: ignore[call-overload]
        np.testing.assert_allclose(got, want, atol=2e-3)


def test_prefill_and_steps_agree_with_numpy(decoder: Decoder, weights: Weights) -> None:
    ids = list(PROMPT)
    agree(decoder.prefill(ids), reference(weights, ids, IMAGE))
    for new in ([300], [301, 302, 303], [304], [305, 306]):
        ids += new
        agree(decoder.extend(new), reference(weights, ids, IMAGE))
    assert decoder.room == 160 - len(ids)


def test_a_second_prompt_prefills_its_own_words_only(decoder: Decoder, weights: Weights) -> None:
    decoder.prefill(PROMPT)
    decoder.extend([300, 301])
    passes = _count_passes(decoder)
    second = [*PROMPT[:17], 5, 210, 211, 212, 6]
    agree(decoder.prefill(second), reference(weights, second, IMAGE))
    assert passes == [4]  # bos, the picture and <user> were there
    agree(decoder.prefill(second), reference(weights, second, IMAGE))
    assert passes == [4, 1]  # the last id is always computed: its logits are wanted


def test_another_picture_keeps_only_what_comes_before_it(
    decoder: Decoder, weights: Weights
) -> None:
    decoder.prefill(PROMPT)
    passes = _count_passes(decoder)
    decoder.set_image(OTHER)
    agree(decoder.prefill(PROMPT), reference(weights, PROMPT, OTHER))
    assert passes == [len(PROMPT) - 1]


def test_another_picture_that_has_no_place_in_the_prompt_forgets_all(decoder: Decoder) -> None:
    words = [1, 5, 200, 201, 6]
    decoder.prefill(words)
    passes = _count_passes(decoder)
    decoder.prefill(words)
    decoder.set_image(OTHER)
    decoder.prefill(words)
    assert passes == [1, len(words)]


def test_the_cache_has_an_end(decoder: Decoder) -> None:
    decoder.prefill([1] * 160)
    assert decoder.room == 0
    with pytest.raises(ValueError, match="cannot append 1 ids where 0 fit"):
        decoder.extend([1])


def test_a_graph_that_is_no_decoder_is_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    with pytest.raises(BundleError, match="no state past_key_values"):
        open_decoder(bundle.path("vision.cpu.onnx"), bundle.manifest.decoder, 1)


def _count_passes(decoder: Decoder) -> list[int]:
    passes: list[int] = []
    extend = decoder.extend

    def counted(ids: list[int]) -> object:
        passes.append(len(ids))
        return extend(ids)

    decoder.extend = counted  # type: ignore[method-assign,assignment]
    return passes
