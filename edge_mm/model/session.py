"""A checkpoint behind the runtime's own Session: torch answers as the robot would be answered."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from edge_mm.model.checkpoint import CheckpointError, load_model
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
    manifest = describe(model, Path(folder))
    tokenizer = FileEntry("tokenizer.json", (Path(folder) / "tokenizer.json").stat().st_size, "")
    manifest = msgspec.structs.replace(manifest, files=(tokenizer,))
    return Session(
        Bundle(Path(folder), manifest), vision=TorchVision(model), decoder=TorchDecoder(model)
    )


def describe(model: EdgeMM, folder: Path) -> BundleManifest:
    """What a bundle of this model says of it, without graphs and files."""
    config, spoken = model.config, model.config.grounding
    temperature = spoken.confidence_temperature
    return BundleManifest(
        name=config.name,
        family="edge_mm",
        licence="unspecified",
        provenance=Provenance(checkpoint_sha256="", recipe="", tools={}, created=""),
        image=config.image,
        prompt=Prompt(NANO_TEMPLATE, IMAGE_TOKEN, config.image_tokens),
        stop_ids=(_stop_id(folder, config.language.vocab_size),),
        grounding=Grounding(
            codec=spoken.codec,
            bins=spoken.bins,
            box_source=spoken.box_source,
            existence_threshold=spoken.existence_threshold,
            confidence=None if temperature is None else Confidence(temperature),
        ),
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
