"""A checkpoint leaves as a LLaVA folder, and comes back through the importer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from edge_mm.cli import main as cli
from edge_mm.model.checkpoint import save_checkpoint
from edge_mm.model.vocabulary import extend_tokenizer
from edge_mm_export.families.subject import open_folder
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt
from tests.edge_mm.model.components import language_model, small, tower
from tests.edge_mm.model.test_languages import byte_level, trained

TEXT = "find the red cup"


def test_a_checkpoint_leaves_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    words = extend_tokenizer(trained(byte_level()), 128)
    model = small(tower("CLIP", feature_layer=-2), language_model("Qwen2"))
    extra = {"LICENSE": "MIT"}
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    save_checkpoint(checkpoint, model, dict(model.state_dict()), words, extra, torch.float32)
    assert cli(["export", str(checkpoint), "--llava", "-o", str(out)]) == 0
    assert "LlavaForConditionalGeneration.from_pretrained" in capsys.readouterr().err
    assert (out / "LICENSE").read_text() == "MIT"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]

    llava = AutoModelForImageTextToText.from_pretrained(out).eval()
    imported = open_folder(out)
    assert imported.notes == ()  # squashed, as here
    manifest = imported.manifest()
    assert manifest.image == model.config.image
    ours = Prompt(NANO_TEMPLATE, "<image>", model.config.image_tokens).render(TEXT)
    assert manifest.prompt.render(TEXT) == ours
    ids = words.encode(ours).ids
    image, rows = words.token_to_id("<image>"), model.config.language.vocab_size
    row = iter(range(rows, 2 * rows))
    ids = [next(row) if token == image else token for token in ids]
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        embeds = model.embed(torch.tensor([ids]), model.vision_graph()(pixels)[0])
        expected = model.logits(model.hidden_states(embeds)[-1][:, -1])
        tokens = torch.tensor([[image if token >= rows else token for token in ids]])
        found = llava(input_ids=tokens, pixel_values=pixels).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.from_numpy(imported.model.reference.read(ids, pixels.numpy())), found
    )


def test_our_own_tower_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli(["export", str(checkpoint), "--llava", "-o", str(out)]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "its vision tower is our own, which transformers has no class for" in message
    assert list(tmp_path.iterdir()) == []
