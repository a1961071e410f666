"""The ids of the tokens that carry meaning: tags, locations, stop."""

from __future__ import annotations

from typing import NamedTuple

from tokenizers import Tokenizer

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.grounding import location_tokens


class Vocabulary(NamedTuple):
    """Ids of a bundle's tokenizer."""

    size: int
    image: int
    ref: int
    end_ref: int
    box: int
    end_box: int
    point: int
    end_point: int
    none: int
    locations: tuple[int, ...]
    stop: tuple[int, ...]


def open_tokenizer(bundle: Bundle) -> tuple[Tokenizer, Vocabulary]:
    """The tokenizer of a bundle, every tag and location of its codec being one special token."""
    path = bundle.path(bundle.manifest.tokenizer)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception
        raise BundleError(f"{path} is not a tokenizer: {error}: export the bundle again") from None
    special = {
        token.content: index
        for index, token in tokenizer.get_added_tokens_decoder().items()
        if token.special
    }

    def id_of(token: str) -> int:
        if token not in special:
            raise BundleError(f"{path} has no special token {token}: export the bundle again")
        return special[token]

    manifest = bundle.manifest
    size = tokenizer.get_vocab_size()
    if size > manifest.decoder.vocab_size:
        raise BundleError(
            f"{path} has {size} tokens, the decoder's vocabulary only "
            f"{manifest.decoder.vocab_size}: export the bundle again"
        )
    vocabulary = Vocabulary(
        size=size,
        image=id_of(manifest.prompt.image_token),
        ref=id_of("<ref>"),
        end_ref=id_of("</ref>"),
        box=id_of("<box>"),
        end_box=id_of("</box>"),
        point=id_of("<point>"),
        end_point=id_of("</point>"),
        none=id_of("<none>"),
        locations=tuple(map(id_of, location_tokens(manifest.grounding.bins))),
        stop=manifest.stop_ids,
    )
    return tokenizer, vocabulary
