"""Tiny random models: a Llama with a box head stepped by hand, and a whole EdgeMM checkpoint."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from edge_mm.model.checkpoint import save_checkpoint
from edge_mm.model.config import (
    GroundingConfig,
    LanguageConfig,
    ModelConfig,
    RegionConfig,
    VisionConfig,
)
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec, spec_from_llama
from edge_mm_export.vision import trace_vision
from edge_mm_runtime.bundle import DecoderGeometry
from edge_mm_runtime.decoder import decoder_inputs, open_decoder
from edge_mm_runtime.grounding import SPECIAL_TOKENS, location_tokens
from edge_mm_runtime.image import ImageTransform

REGION_SIZE = 16
IMAGE_TOKENS = 5
CONTEXT = 64

torch.set_num_threads(1)  # tiny matrices; threads only wait for each other


def kinds(model: ir.Model) -> Counter[str]:
    """How many nodes a graph has of each operator."""
    return Counter(node.op_type for node in model.graph)


class TinyDecoder:
    """The torch side: a Llama with random weights, a region query layer and a picture's rows."""

    def __init__(self, *, tied: bool) -> None:
        torch.manual_seed(3)
        self.config = LlamaConfig(
            vocab_size=96,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=tied,
            initializer_range=0.1,
        )
        self.lm = LlamaForCausalLM(self.config).eval()
        self.region_query = torch.nn.Linear(64, REGION_SIZE)
        self.image_embeds = torch.randn(IMAGE_TOKENS, 64)
        self.spec: DecoderSpec = spec_from_llama(self.config, region_size=REGION_SIZE)

    def weights(self) -> dict[str, np.ndarray]:
        state = dict(self.lm.state_dict())
        for part, value in self.region_query.state_dict().items():
            state[f"region_query.{part}"] = value
        return {name: value.numpy() for name, value in state.items()}

    @torch.no_grad()
    def last(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(logits [V], region query [K]) at the last of `ids`, with no cache at all."""
        vocab = self.config.vocab_size
        tokens = torch.tensor(ids)
        words = self.lm.get_input_embeddings()(tokens.clamp(max=vocab - 1))
        rows = self.image_embeds[(tokens - vocab).clamp(min=0)]
        embeds = torch.where((tokens >= vocab)[:, None], rows, words)
        out = self.lm.model(inputs_embeds=embeds[None]).last_hidden_state[0, -1]
        return self.lm.lm_head(out).numpy(), self.region_query(out).numpy()


class SteppedDecoder:
    """An ONNX decoder with its shared cache, fed a few ids at a time."""

    def __init__(
        self, path: Path, spec: DecoderSpec, image_embeds: np.ndarray, target: str = "cpu"
    ) -> None:
        geometry = DecoderGeometry(
            spec.layers,
            spec.kv_heads,
            spec.head_dim,
            spec.context,
            spec.vocab_size,
            spec.hidden_size,
        )
        self.runner = open_decoder(path, geometry, 1, target)
        self.image_embeds = image_embeds
        self.target = target
        self.length = 0

    def feed(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Append `ids`: (logits [V], region query [K]) at the last of them."""
        outputs = self.runner.run(decoder_inputs(self.target, self.length, ids, self.image_embeds))
        self.length += len(ids)
        return outputs["logits"][0], outputs["region_query"][0]


@pytest.fixture(params=[True, False], ids=["tied", "untied"], scope="session")
def tiny(request: pytest.FixtureRequest) -> TinyDecoder:
    return TinyDecoder(tied=request.param)


@pytest.fixture(scope="session")
def stepped(tiny: TinyDecoder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`stepped(precision, target)`: a fresh `SteppedDecoder` of the tiny model, built once each.

    Further options are `build_decoder`'s, and part of what is built once by their names.
    """
    folder = tmp_path_factory.mktemp("decoders")

    def make(precision: str, target: str = "cpu", **options: Any) -> SteppedDecoder:
        path = folder / f"{target}-{precision}{'-'.join(options)}.onnx"
        if not path.exists():
            model = build_decoder(
                tiny.spec, tiny.weights(), target=target, precision=precision, **options
            )
            ir.save(model, path)
        return SteppedDecoder(path, tiny.spec, tiny.image_embeds.numpy(), target)

    return make


SIDE = 64
VOCAB = 420


def tiny_edge_mm(box_source: str) -> EdgeMM:
    """An EdgeMM with random weights and lively batch norms, 64 px and four image tokens."""
    torch.manual_seed(5)
    model = EdgeMM(
        ModelConfig(
            name="tiny",
            image=ImageTransform("squash", SIDE, SIDE),
            vision=VisionConfig(
                image_size=SIDE,
                neck_channels=16,
                token_grid=2,
                hidden_size=32,
                layers=1,
                heads=2,
                intermediate_size=64,
            ),
            regions=RegionConfig(key_size=REGION_SIZE),
            language=LanguageConfig(
                vocab_size=VOCAB,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=32,
                max_position_embeddings=128,
            ),
            grounding=GroundingConfig(box_source=box_source),
        )
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    torch.manual_seed(2)  # whatever was drawn before: this one answers with places, and briefly
    for parameter in model.lm.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    # A direction that every token shares makes some tokens likely: short answers with a place.
    embeddings = model.lm.get_input_embeddings().weight.data
    embeddings[:, 0] = 1.0
    for token, weight in (("<ref>", 2.0), ("</ref>", 3.0), ("<eos>", 3.5)):
        embeddings[SPECIAL_TOKENS.index(token), 0] = weight
    return model.eval()


def tiny_tokenizer() -> Tokenizer:
    """Every special and location token, and single bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[*SPECIAL_TOKENS, *location_tokens()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["find the red cup"], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def edge_mm() -> EdgeMM:
    return tiny_edge_mm("head")


@pytest.fixture(scope="session")
def traced(edge_mm: EdgeMM) -> ir.Model:
    """The vision graph of the tiny EdgeMM; tracing takes the longest of an export."""
    return trace_vision(edge_mm.vision_graph(), width=SIDE, height=SIDE, box_head=True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, edge_mm: EdgeMM) -> Path:
    """The tiny EdgeMM as a checkpoint folder with a licence."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "head", edge_mm)


def write_checkpoint(folder: Path, model: EdgeMM) -> Path:
    extra = {"recipe.yaml": "stages: []\n", "LICENSE": "Apache License\nVersion 2.0\n"}
    weights = dict(model.state_dict())
    save_checkpoint(folder, model, weights, tiny_tokenizer(), extra, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy pictures with a questions.json; the modes force places into the answers."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(4)
    pictures = []
    for name in ("a.png", "b.png"):
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(small, (80, 60)))
        questions = [
            {"text": "find the red cup", "mode": "locate"},
            {"text": "point to the cup", "mode": "point"},
            {"text": "what is there?"},
        ]
        pictures.append({"file": name, "questions": questions})
    (folder / "questions.json").write_text(json.dumps({"pictures": pictures}))
    return folder


@pytest.fixture(scope="module")
def others(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames to quantise on, in another folder than those to verify on."""
    return Path(shutil.copytree(frames, tmp_path_factory.mktemp("calibration") / "others"))
