"""A checkpoint behind the runtime's own Session: torch answers as the robot would be answered."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from edge_mm.model.checkpoint import CheckpointError, load_model
from edge_mm.model.config import GroundingConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_runtime.bundle import (
    Bundle,
    BundleManifest,
    Confidence,
    DecoderGeometry,
    FileEntry,
    Grounding,
    Provenance,
)
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt
from edge_mm_runtime.session import Session

IMAGE_TOKEN = "<image>"
STOP_TOKEN = "<eos>"


def open_checkpoint(folder: Path) -> Session:
    """A Session on the fp32 torch model of a checkpoint; same prompt, grammar and decode loop."""
    model = load_model(folder)
    return open_model(model, Path(folder), model.config.grounding)


def open_model(model: EdgeMM, folder: Path, spoken: GroundingConfig) -> Session:
    """A Session on the loaded model of a checkpoint, with other fitted numbers than its own."""
    tokenizer = FileEntry("tokenizer.json", (folder / "tokenizer.json").stat().st_size, "")
    manifest = msgspec.structs.replace(
        describe(model, folder), files=(tokenizer,), grounding=grounding(spoken)
    )
    return Session(Bundle(folder, manifest), vision=TorchVision(model), decoder=TorchDecoder(model))


def describe(model: EdgeMM, folder: Path) -> BundleManifest:
    """What a bundle of this model says of it, without graphs and files."""
    config = model.config
    return BundleManifest(
        name=config.name,
        family="edge_mm",
        licence="unspecified",
        provenance=Provenance(checkpoint_sha256="", recipe="", tools={}, created=""),
        image=config.image,
        prompt=Prompt(NANO_TEMPLATE, IMAGE_TOKEN, config.image_tokens),
        stop_ids=(_stop_id(folder, config.language.vocab_size),),
        grounding=grounding(config.grounding),
        decoder=DecoderGeometry(
            layers=config.language.num_hidden_layers,
            kv_heads=config.language.num_key_value_heads,
            head_dim=config.language.head_dim,
            context=config.language.max_position_embeddings,
            vocab_size=config.language.vocab_size,
            hidden_size=config.language.hidden_size,
        ),
        graphs={},
    )


def grounding(spoken: GroundingConfig) -> Grounding:
    """What a bundle says of places and confidences; a temperature of 1 changes nothing."""
    located, words = spoken.confidence_temperature, spoken.words_temperature
    scaled = located is not None or words is not None
    return Grounding(
        codec=spoken.codec,
        bins=spoken.bins,
        box_source=spoken.box_source,
        existence_threshold=spoken.existence_threshold,
        confidence=Confidence(1.0 if located is None else located, words) if scaled else None,
    )


def _stop_id(folder: Path, vocab_size: int) -> int:
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from None
    if tokenizer.get_vocab_size() > vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.get_vocab_size()} tokens, the model only {vocab_size}: "
            "they are not of one checkpoint"
        )
    stop: int | None = tokenizer.token_to_id(STOP_TOKEN)
    if stop is None:
        raise CheckpointError(f"{path} has no token {STOP_TOKEN}")
    return stop
