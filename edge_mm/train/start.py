"""The model that a run starts from."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edge_mm.model.assemble import assemble
from edge_mm.model.checkpoint import load_backbone, load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.tokenizer import learn_tokenizer, load_tokenizer
from edge_mm.train.recipe import Recipe


def start_model(recipe: Recipe) -> tuple[EdgeMM, Tokenizer]:
    """A checkpoint's model, or a new one of pretrained parts, and its tokenizer."""
    if recipe.model.init:
        return load_model(Path(recipe.model.init)), load_tokenizer(Path(recipe.model.init))
    model, tokenizer = assemble(
        tower=recipe.model.tower,
        language_model=recipe.model.language_model,
        name=recipe.model.name,
        vision=recipe.model.vision,
        projector=recipe.model.projector,
        fusion=recipe.model.fusion,
        language=recipe.model.language,
    )
    if recipe.model.backbone and recipe.model.tower is None:
        load_backbone(model, Path(recipe.model.backbone))
    if tokenizer is None:
        config = model.config
        tokenizer = learn_tokenizer(config.language.vocab_size, config.grounding.bins)
    return model, tokenizer
