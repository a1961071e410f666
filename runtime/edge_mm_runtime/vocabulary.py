"""The ids of the tokens that carry meaning: tags, locations, stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tokenizers import Tokenizer

from edge_mm_runtime.bundle import Bundle, CodecName
from edge_mm_runtime.codecs import open_codec
from edge_mm_runtime.errors import BundleError


class Tags(NamedTuple):
    """Ids of the tags of the edge_mm codec."""

    ref: int
    end_ref: int
    box: int
    end_box: int
    point: int
    end_point: int
    none: int


class Vocabulary(NamedTuple):
    """Ids of a bundle's tokenizer, and the codec that they are read by.

    locations  the codec's location tokens in order; () where its numbers are text
    tags       of the edge_mm codec; None: another one, which may spell its tags
    added      the tokens that were added to the tokenizer's own, by their text
    special    those of them that words are not made of
    """

    size: int
    image: int
    stop: tuple[int, ...]
    locations: tuple[int, ...] = ()
    tags: Tags | None = None
    added: Mapping[str, int] = {}
    special: frozenset[int] = frozenset()
    codec: CodecName = "edge_mm"


def open_tokenizer(bundle: Bundle) -> tuple[Tokenizer, Vocabulary]:
    """The tokenizer of a bundle.

    Every tag and location of the edge_mm codec must be one special token of it; of other codecs
    only the image token must be one token.
    """
    path = bundle.path(bundle.manifest.tokenizer)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception
        raise BundleError(f"{path} is not a tokenizer: {error}: export the bundle again") from None
    decoder = tokenizer.get_added_tokens_decoder()
    added = {token.content: index for index, token in decoder.items()}
    special = frozenset(index for index, token in decoder.items() if token.special)

    def id_of(token: str) -> int:
        if added.get(token) not in special:
            raise BundleError(f"{path} has no special token {token}: export the bundle again")
        return added[token]

    manifest = bundle.manifest
    size = tokenizer.get_vocab_size()
    if size > manifest.decoder.vocab_size:
        raise BundleError(
            f"{path} has {size} tokens, the decoder's vocabulary only "
            f"{manifest.decoder.vocab_size}: export the bundle again"
        )
    image = manifest.prompt.image_token
    locations = open_codec(manifest.grounding).locations
    if manifest.grounding.codec == "edge_mm":
        tags = Tags(*map(id_of, _TAGS))
        ids = tuple(map(id_of, locations))
        return tokenizer, Vocabulary(
            size, id_of(image), manifest.stop_ids, ids, tags, added, special
        )
    if image not in added:
        raise BundleError(f"{path} has no token {image} of its own: export the bundle again")
    known = all(token in added for token in locations)
    return tokenizer, Vocabulary(
        size,
        added[image],
        manifest.stop_ids,
        tuple(added[token] for token in locations) if known else (),
        None,
        added,
        special,
        manifest.grounding.codec,
    )


_TAGS = ("<ref>", "</ref>", "<box>", "</box>", "<point>", "</point>", "<none>")
