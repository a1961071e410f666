"""The decoder's cache against a plain numpy decoder that sees all ids at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from edge_mm_runtime.bundle import DecoderGeometry, load_bundle
from edge_mm_runtime.decoder import Decoder, open_decoder
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.runner import Array, Arrays, TensorSpec

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


def test_what_every_prompt_begins_with_stays(decoder: Decoder, weights: Weights) -> None:
    decoder.begin(PROMPT[:1])
    passes = _count_passes(decoder)
    for picture in (IMAGE, OTHER):
        decoder.set_image(picture)
        agree(decoder.prefill(PROMPT), reference(weights, PROMPT, picture))
    assert passes == [len(PROMPT) - 1] * 2
    words = [7, 5, 200, 201, 6]  # another beginning: it is forgotten, and with it that it stays
    for _ in range(2):
        agree(decoder.prefill(words), reference(weights, words, OTHER))
        decoder.set_image(OTHER)
    assert passes[2:] == [len(words)] * 2


@pytest.mark.parametrize(
    ("context", "said", "seen"),
    [(1024, None, "1"), (1025, None, None), (1024, "0", "0"), (1025, "0", "0")],
)
def test_attention_is_tiled_where_its_scores_would_be_large(
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: int,
    said: str | None,
    seen: str | None,
) -> None:
    name, found = "ORT_GQA_DISABLE_FLASH_ATTENTION", list[str | None]()
    monkeypatch.delenv(name, raising=False)
    if said is not None:
        monkeypatch.setenv(name, said)

    class Seen(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            found.append(os.environ.get(name))
            super().__init__(*args, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Seen)
    bundle = load_bundle(tiny_bundle, verify="size")
    geometry = msgspec.structs.replace(bundle.manifest.decoder, context=context)
    open_decoder(bundle.path("decoder.cpu.onnx"), geometry, 1).close()
    assert found == [seen]
    assert os.environ.get(name) == said


def test_a_long_text_is_read_in_parts_and_a_picture_is_not() -> None:
    decoder, given = recorded()  # of a context of 64 and 10 words
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_mm_runtime.decoder.WORDS", 16)
        decoder.prefill([1] * 40)
        assert (passed(given), decoder.prefilled) == ([16, 16, 8], 40)
        decoder.prefill([1] * 39 + [2, 3])
        assert (passed(given)[3:], decoder.prefilled) == ([2], 2)
        decoder.prefill([2, *PICTURE, *[3] * 30])
        assert (passed(given)[4:], decoder.prefilled) == ([37], 37)
    whole, given = recorded(prefix_reuse=False)  # sees itself
    whole.prefill([1] * 40)
    assert passed(given) == [40]


def passed(given: list[Arrays]) -> list[int]:
    return [inputs["input_ids"].shape[1] for inputs in given]


def test_the_cache_has_an_end(decoder: Decoder) -> None:
    decoder.prefill([1] * 160)
    assert decoder.room == 0
    with pytest.raises(ValueError, match="cannot append 1 ids where 0 fit"):
        decoder.extend([1])


def test_a_graph_that_is_no_decoder_is_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    with pytest.raises(BundleError, match="no state past_key_values"):
        open_decoder(bundle.path("vision.cpu.onnx"), bundle.manifest.decoder, 1)


class Recorder:
    """A Runner that remembers what it was given."""

    def __init__(self) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.given: list[Arrays] = []

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        self.given.append(dict(inputs))
        return {"logits": np.zeros((1, 10), np.float32)}

    def close(self) -> None:
        pass


PICTURE = list(range(10, 16))


def recorded(target: str = "cpu", **changes: object) -> tuple[Decoder, list[Arrays]]:
    geometry = DecoderGeometry(1, 1, 8, 64, 10, 4, **changes)  # type: ignore[arg-type]
    runner = Recorder()
    return Decoder(runner, geometry, target), runner.given


@pytest.mark.parametrize("target", ["cpu", "cuda", "tensorrt", "tensorrt-10.3"])
def test_positions_of_several_axes_go_on_through_passes(target: str) -> None:
    decoder, given = recorded(target, rope_grid=(2, 3))
    prompt = [1, *PICTURE, 2, 3]
    decoder.prefill(prompt)
    decoder.extend([4])
    decoder.extend([5, 6])
    decoder.prefill([1, *PICTURE, 7, 3])
    whole = [
        [0, 1, 1, 1, 1, 1, 1, 4, 5, 6, 7, 8],
        [0, 1, 1, 1, 2, 2, 2, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
    expected = [slice(0, 9), slice(9, 10), slice(10, 12), slice(7, 9)]
    for inputs, part in zip(given, expected, strict=True):
        assert inputs["rope_positions"].dtype == np.int64
        np.testing.assert_array_equal(inputs["rope_positions"], np.array(whole)[:, part])
    assert "position_ids" not in given[0] or given[3]["position_ids"].tolist() == [[7, 8]]


def test_a_prompt_that_sees_itself_is_read_anew() -> None:
    decoder, given = recorded(prefix_reuse=False)
    for words in ([2, 3], [2, 4], [2, 4]):
        decoder.prefill([1, *PICTURE, *words])
    decoder.extend([5])
    assert [inputs["input_ids"].shape[1] for inputs in given] == [9, 9, 9, 1]
    assert given[2]["seqlens_k"].tolist() == [8]  # from the first place on


def test_a_picture_is_read_in_one_pass() -> None:
    """Where its rows see each other, the first ones would miss those of a later pass."""
    decoder, given = recorded()
    decoder.prefill([1, *PICTURE])
    decoder.prefill([1, *PICTURE])  # its last id is wanted again, and that is a row
    assert given[1]["input_ids"].tolist() == [PICTURE]
    decoder.prefill([1, *PICTURE, 2])
    assert given[2]["input_ids"].tolist() == [[2]]
    decoder.prefill([*PICTURE, 2])  # another prompt, though it has the same rows
    assert given[3]["input_ids"].tolist() == [[*PICTURE, 2]]


def test_rows_have_the_width_of_the_bundle_and_are_never_none() -> None:
    decoder, given = recorded(image_size=12)
    decoder.prefill([1, 2])
    assert given[0]["image_embeds"].shape == (1, 12)
    decoder.set_image(np.zeros((0, 12), np.float32))
    decoder.prefill([1, 2])
    assert given[1]["image_embeds"].shape == (1, 12)
    narrow, given = recorded()
    narrow.prefill([1])
    assert given[0]["image_embeds"].shape == (1, 4)


def test_a_graph_without_the_positions_it_should_take_is_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    geometry = msgspec.structs.replace(bundle.manifest.decoder, rope_grid=(4, 4))
    with pytest.raises(BundleError, match=r"a decoder takes .*'rope_positions'"):
        open_decoder(bundle.path("decoder.cpu.onnx"), geometry, 1)


def _count_passes(decoder: Decoder) -> list[int]:
    passes: list[int] = []
    extend = decoder.extend

    def counted(ids: list[int]) -> object:
        passes.append(len(ids))
        return extend(ids)

    decoder.extend = counted  # type: ignore[method-assign,assignment]
    return passes
