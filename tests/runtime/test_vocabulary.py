"""A bundle's tokenizer: every tag and location is one special token, or it is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edge_mm_runtime.bundle import Bundle, load_bundle
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
    assert vocabulary.end_ref == tokenizer.token_to_id("</ref>")
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
