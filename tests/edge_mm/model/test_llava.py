"""What is saved as LLaVA answers in transformers as it answers here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

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


@pytest.mark.parametrize(
    ("eye", "family", "layers", "feature_layer"),
    [
        ("CLIP", "Qwen2", 2, -2),
        ("CLIP", "Llama, tied", 1, -1),
        ("SigLIP", None, 2, -1),
    ],
)
def test_equal_logits(eye, family, layers, feature_layer, tmp_path: Path, words) -> None:
    torch.manual_seed(0)
    model = small(
        tower(eye, feature_layer=feature_layer),
        family and language_model(family),
        ProjectorConfig(layers=layers),
    )
    save_llava(model, words, tmp_path / "llava")
    llava, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "llava", output_loading_info=True
    )
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
        ((None, None, None), "vision tower is of type edge_mm"),
        (("DINOv2", None, None), "type dinov2"),
        (("CLIP", None, ProjectorConfig("linear")), "a linear"),
        (("CLIP", None, ProjectorConfig(layers=3)), "mlp of 3"),
        (("CLIP", "Qwen3", None), "qwen3"),
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
