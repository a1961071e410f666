"""The sigmoid loss against transformers' own SiglipModel."""

from __future__ import annotations

import math

import torch
from transformers import SiglipConfig, SiglipModel

from edge_mm.objectives.siglip import siglip_loss


def test_siglip_loss_is_transformers_with_its_gradients() -> None:
    torch.manual_seed(0)
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = SiglipModel(
        SiglipConfig(
            text_config={**tower, "vocab_size": 32, "max_position_embeddings": 8},
            vision_config={**tower, "image_size": 16, "patch_size": 8},
        )
    )
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
    out = model(
        input_ids=torch.randint(0, 32, (5, 8)),
        pixel_values=torch.randn(5, 3, 16, 16),
        return_loss=True,
    )
    image, text = out.image_embeds, out.text_embeds
    ours = siglip_loss(image, text, model.logit_scale, model.logit_bias)
    torch.testing.assert_close(ours, out.loss[None][0])
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(
        torch.autograd.grad(ours, parameters, retain_graph=True, allow_unused=True),
        torch.autograd.grad(out.loss, parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_siglip_loss_of_orthogonal_pairs() -> None:
    """Three right pairs of cosine 1 and six wrong ones of cosine 0, written out."""
    loss = siglip_loss(
        torch.eye(3), 7 * torch.eye(3), torch.tensor(math.log(4.0)), torch.tensor(-1.0)
    )
    expected = (3 * math.log1p(math.exp(-3)) + 6 * math.log1p(math.exp(-1))) / 3
    assert math.isclose(loss.item(), expected, rel_tol=1e-5)
