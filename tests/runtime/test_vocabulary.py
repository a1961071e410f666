"""A bundle's tokenizer: every tag and location of ours is one special token, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer

from edge_mm_runtime.bundle import Bundle, Grounding, load_bundle
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.vocabulary import open_tokenizer


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, to be damaged."""
    manifest = load_bundle(tiny_bundle, verify="size").manifest
    return Bundle(Path(shutil.copytree(tiny_bundle, tmp_path / "copy")), manifest)


def replace(bundle: Bundle, old: str, new: str) -> None:
    path = bundle.folder / "tokenizer.json"
    path.write_text(path.read_text().replace(old, new))


def test_ids_are_the_tokenizers(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    _, vocabulary = open_tokenizer(load_bundle(tiny_bundle, verify="size"))
    assert vocabulary.tags is not None
    assert vocabulary.tags.end_ref == tokenizer.token_to_id("</ref>")
    assert vocabulary.tags.none == tokenizer.token_to_id("<none>")
    assert vocabulary.locations[127] == tokenizer.token_to_id("<loc127>")
    assert vocabulary.size == tokenizer.get_vocab_size()


def test_a_missing_tag_is_named(bundle: Bundle) -> None:
    replace(bundle, "<loc077>", "<lok077>")
    with pytest.raises(BundleError, match="has no special token <loc077>: export"):
        open_tokenizer(bundle)


def test_what_is_no_tokenizer_is_named(bundle: Bundle) -> None:
    replace(bundle, "{", "[")
    with pytest.raises(BundleError, match=r"tokenizer.json is not a tokenizer"):
        open_tokenizer(bundle)


def test_more_tokens_than_logits_are_refused(bundle: Bundle) -> None:
    tokenizer = Tokenizer.from_file(str(bundle.folder / "tokenizer.json"))
    tokenizer.add_tokens([f"word{index}" for index in range(20)])
    tokenizer.save(str(bundle.folder / "tokenizer.json"))
    with pytest.raises(BundleError, match="has 460 tokens, the decoder's vocabulary only 448"):
        open_tokenizer(bundle)


def of_codec(bundle: Bundle, name: str) -> Bundle:
    """The same bundle, said to speak another codec."""
    grounding = Grounding(name)  # type: ignore[arg-type]
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, grounding=grounding))


def test_another_codec_needs_no_tags(bundle: Bundle, tokenizer: Tokenizer) -> None:
    replace(bundle, "<ref>", "<rfe>")
    _, vocabulary = open_tokenizer(of_codec(bundle, "qwen3_vl"))
    assert (vocabulary.codec, vocabulary.tags, vocabulary.locations) == ("qwen3_vl", None, ())
    assert vocabulary.image == tokenizer.token_to_id("<image>")
    assert vocabulary.stop == bundle.manifest.stop_ids
    _, spelled = open_tokenizer(of_codec(bundle, "paligemma"))  # its locations are letters here
    assert spelled.locations == ()


def test_location_tokens_of_another_codec_are_known_in_order(bundle: Bundle) -> None:
    path = bundle.folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"<loc_{index}>" for index in range(1000)])
    tokenizer.save(str(path))
    wide = msgspec.structs.replace(bundle.manifest.decoder, vocab_size=2000)
    manifest = msgspec.structs.replace(bundle.manifest, decoder=wide)
    _, vocabulary = open_tokenizer(of_codec(Bundle(bundle.folder, manifest), "florence2"))
    assert vocabulary.locations == tuple(tokenizer.token_to_id(f"<loc_{i}>") for i in range(1000))
    assert not vocabulary.special & set(vocabulary.locations)


def test_an_image_token_that_is_none_is_named(bundle: Bundle) -> None:
    replace(bundle, "<image>", "<picture>")
    with pytest.raises(BundleError, match="has no token <image> of its own: export"):
        open_tokenizer(of_codec(bundle, "none"))
