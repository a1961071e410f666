"""What is saved as LLaVA answers in transformers as it answers here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from edge_mm.model.components import TowerConfig
from edge_mm.model.config import ProjectorConfig
from edge_mm.model.llava import save_llava
from edge_mm.model.vocabulary import extend_tokenizer
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt
from tests.edge_mm.model.components import language_model, small, tower
from tests.edge_mm.model.test_languages import byte_level, trained

TEXT = "find the red cup"


@pytest.fixture(scope="module")
def words():
    return extend_tokenizer(trained(byte_level()), 128)


LLAVA, VIPLLAVA = "LlavaForConditionalGeneration", "VipLlavaForConditionalGeneration"


@pytest.mark.parametrize(
    ("eye", "family", "projector", "feature_layer", "loader"),
    [
        ("CLIP", "Qwen2", ProjectorConfig(), -2, LLAVA),
        ("CLIP", "Llama, tied", ProjectorConfig(layers=1), -1, LLAVA),
        ("SigLIP", None, ProjectorConfig(), -1, LLAVA),
        ("DINOv2", "Qwen3", ProjectorConfig(), -2, LLAVA),
        ("SigLIP", "SmolLM 3", ProjectorConfig(), -2, LLAVA),
        ("CLIP", "Gemma", ProjectorConfig(), -2, LLAVA),
        ("SigLIP", "Gemma 3", ProjectorConfig(layers=1), -2, LLAVA),
        ("CLIP", None, ProjectorConfig("linear"), -2, VIPLLAVA),
        ("DINOv2", "Qwen2", ProjectorConfig("linear"), -1, VIPLLAVA),
    ],
)
def test_equal_logits(eye, family, projector, feature_layer, loader, tmp_path: Path, words) -> None:
    torch.manual_seed(0)
    model = small(
        tower(eye, feature_layer=feature_layer), family and language_model(family), projector
    )
    with torch.no_grad():
        for parameter in model.projector.parameters():  # a norm that does something
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert save_llava(model, words, tmp_path / "llava") == loader
    llava, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "llava", output_loading_info=True
    )
    assert type(llava).__name__ == loader
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert llava.generation_config.eos_token_id == words.token_to_id("<eos>")
    count, rows = model.config.image_tokens, model.config.language.vocab_size
    ids = words.encode(Prompt(NANO_TEMPLATE, "<image>", count).render(TEXT)).ids
    image = words.token_to_id("<image>")
    row = iter(range(rows, rows + count))
    ours = torch.tensor([[next(row) if i == image else i for i in ids]])
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        embeds = model.embed(ours, model.vision_graph()(pixels)[0])
        expected = model.logits(model.hidden_states(embeds)[-1])
        found = llava.eval()(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_its_processor_makes_our_prompt_and_picture(tmp_path: Path, words) -> None:
    pytest.importorskip("PIL")
    model = small(tower("CLIP"), language_model("Qwen2"))
    save_llava(model, words, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]}
    prompt = processor.apply_chat_template([turn], tokenize=False)
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 255, (4, 5, 3), np.uint8), (96, 80))  # BGR
    made = processor(images=frame[..., ::-1].copy(), text=prompt, return_tensors="pt")
    wanted = words.encode(Prompt(NANO_TEMPLATE, "<image>", 16).render(TEXT)).ids
    assert made["input_ids"][0].tolist() == wanted
    ours = torch.from_numpy(model.config.image.apply(frame)[0])
    assert made["pixel_values"].shape == (1, 3, 64, 64)
    assert (made["pixel_values"][0] - ours).abs().mean() < 0.05  # two ways to resize


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((None, None, None), "vision tower is our own"),
        (("DINOv2 with registers", None, None), "type dinov2_with_registers"),
        (("SigLIP", None, ProjectorConfig("linear")), "has none to drop; take an mlp"),
        (("CLIP", None, ProjectorConfig(layers=3)), "mlp of 3"),
        (("CLIP", None, ProjectorConfig("pixel_shuffle")), "a pixel_shuffle"),
        (("CLIP", "Gemma 2", None), "no soft cap on logits, as its gemma2"),
    ],
)
def test_what_is_no_llava_is_refused(parts, message, tmp_path: Path, words) -> None:
    eye, family, projector = parts
    model = small(eye and tower(eye), family and language_model(family), projector)
    with pytest.raises(UsageError, match=message):
        save_llava(model, words, tmp_path / "llava")
    assert not (tmp_path / "llava").exists()


def test_a_picture_of_another_size_is_refused(tmp_path: Path, words) -> None:
    model = small(TowerConfig(config=tower("CLIP").config, image_size=96))
    with pytest.raises(UsageError, match="96 pixels"):
        save_llava(model, words, tmp_path / "llava")
