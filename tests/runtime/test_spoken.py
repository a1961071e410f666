"""Confidence of places that a model says in text, against probabilities worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edge_mm_runtime.bundle import CodecName, Confidence, Grounding
from edge_mm_runtime.codecs import CODECS
from edge_mm_runtime.guide import GroundingGuide
from edge_mm_runtime.vocabulary import Vocabulary

JSON = (
    '```json\n[\n\t{"bbox_2d": [1, 22, 3, 4], "label": "ä"},\n\t'
    '{"bbox_2d": [5, 6, 7, 8], "label": "b"}\n]\n```'
)


def byte_tokenizer() -> Tokenizer:
    """Every byte is a token, so an 'ä' is two; and the location tokens of PaliGemma."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in CODECS["paligemma"].locations]
    )
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


TOKENIZER = byte_tokenizer()
SIZE = TOKENIZER.get_vocab_size()
STOP = TOKENIZER.token_to_id("<eos>")


def guide_of(codec: CodecName, scaling: Confidence | None = None) -> GroundingGuide:
    names = CODECS[codec].locations
    locations = tuple(TOKENIZER.token_to_id(name) for name in names)
    vocabulary = Vocabulary(SIZE, -1, (STOP,), locations, codec=codec)
    return GroundingGuide(vocabulary, Grounding(codec, confidence=scaling), None)


def choose(guide: GroundingGuide, index: int, token: int, sure: dict[int, float]) -> None:
    """Choose `token` where each id of `sure` has that probability, and no other any."""
    logits = np.full(SIZE, -np.inf, np.float32)
    for other, probability in sure.items():
        logits[other] = math.log(probability)
    assert guide.choose(logits, index) == token


def test_places_in_digits() -> None:
    ids = TOKENIZER.encode(JSON, add_special_tokens=False).ids
    guide = guide_of("qwen2_5_vl")
    text = "".join(chr(b) for b in JSON.encode())  # a character for each token
    doubts = {
        text.index("["): 0.9,  # of going on with the list
        text.index("{"): 0.8,  # of not ending it here
        text.index("b"): 0.6,  # how it is spelled, and what it is called, are no matter
        text.index('label": "') + len('label": "'): 0.6,
        text.index("1"): 0.7,
        text.index("22") + 1: 0.6,
        text.index(",\n\t{"): 0.95,  # of a second one
        text.index("6"): 0.55,
    }
    for index, token in enumerate(ids):
        if index not in doubts:
            continue  # it had no alternative, so nobody asked
        choose(guide, index, token, {token: doubts[index], STOP: 1 - doubts[index]})
    parsed = CODECS["qwen2_5_vl"].parse(JSON, 10, 30)
    first, second = guide.evidence(ids, parsed, TOKENIZER)
    assert first.place is None
    # 1, two digits of 22, 3, 4: five ids
    assert first.confidence == pytest.approx(0.9 * 0.8 * (0.7 * 0.6) ** (1 / 5), rel=1e-6)
    assert second.confidence == pytest.approx(0.95 * 0.55 ** (1 / 4), rel=1e-6)


def test_places_in_location_tokens() -> None:
    """What a location token is worth is its share among them; the rest is that there is one."""
    text = "<loc0100><loc0200><loc0300><loc0400> a ; <loc0001><loc0002><loc0003><loc0004> b"
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    guide = guide_of("paligemma")
    other = TOKENIZER.token_to_id("<loc0999>")
    choose(guide, 0, ids[0], {ids[0]: 0.5, other: 0.3, STOP: 0.2})
    choose(guide, 2, ids[2], {ids[2]: 0.7, other: 0.3})
    choose(guide, 5, ids[5], {ids[5]: 0.9, STOP: 0.1})  # the label is no matter
    choose(guide, 6, ids[6], {ids[6]: 0.6, STOP: 0.4})  # the space of " ; "
    parsed = CODECS["paligemma"].parse(text, 10, 10)
    first, second = guide.evidence(ids, parsed, TOKENIZER)
    assert first.confidence == pytest.approx(0.8 * (0.5 / 0.8 * 0.7) ** (1 / 4), rel=1e-6)
    assert second.confidence == pytest.approx(0.6, rel=1e-6)


def test_it_is_calibrated_and_the_answer_has_its_own() -> None:
    guide = guide_of("paligemma", Confidence(2.0, 1.0))
    text = "<loc0100><loc0200><loc0300><loc0400> a"
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    choose(guide, 0, ids[0], {ids[0]: 0.8, STOP: 0.2})
    [known] = guide.evidence(ids, CODECS["paligemma"].parse(text, 10, 10), TOKENIZER)
    assert known.confidence == pytest.approx(1 / (1 + math.exp(-math.log(4) / 2)), rel=1e-5)
    assert guide.answer_confidence() == pytest.approx(0.8, rel=1e-6)


def test_words_have_no_places_and_places_need_their_text() -> None:
    guide = guide_of("none")
    ids = TOKENIZER.encode("a cup", add_special_tokens=False).ids
    assert not guide.points_after(ids[0])
    assert guide.evidence(ids, CODECS["none"].parse("a cup", 1, 1), TOKENIZER) == []
    with pytest.raises(ValueError, match="need what was parsed"):
        guide.evidence(ids)


def test_an_id_may_be_picked_otherwise() -> None:
    vocabulary = Vocabulary(3, -1, (2,), codec="none")
    guide = GroundingGuide(vocabulary, Grounding("none"), None, pick=lambda logits: 1)
    assert guide.choose(np.array([2.0, 0.0, -np.inf], np.float32), 0) == 1
    assert guide.answer_confidence() == pytest.approx(1 / (1 + math.exp(2)), rel=1e-6)
