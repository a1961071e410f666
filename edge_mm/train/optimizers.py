"""What learns in a stage, by which optimiser, how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.towers import TransformersTower, stack
from edge_mm.model.vision import VisionTower
from edge_mm.train.precision import has_bf16
from edge_mm.train.recipe import Stage, Train

TOP = 8  # the eye's blocks from here on see at strides 16 and 32: the part `backbone_top`
MUON_RATE = 2.0  # times AdamW's learning rate, once its update has the same size


def parts(model: EdgeMM) -> dict[str, list[nn.Parameter]]:
    """The model's parameters by the names that recipes use."""
    vision = model.vision
    bottom, top = _bottom_and_top(vision)
    eye = {id(parameter) for parameter in (*bottom, *top)}
    return {
        "backbone": bottom,
        "backbone_top": top,
        "vision": [p for p in vision.parameters() if id(p) not in eye]
        + list(model.image_projection.parameters()),
        "projector": list(model.projector.parameters()),
        "fusion": [] if model.fusion is None else list(model.fusion.parameters()),
        "regions": [
            *model.regions.parameters(),
            *model.region_query.parameters(),
            *model.mention_query.parameters(),
            *model.subject_query.parameters(),
        ],
        "language": [
            *model.lm.parameters(),
            *model.text_projection.parameters(),
            model.log_temperature,
        ],
    }


def own_eye(model: EdgeMM) -> list[nn.Module]:
    """The stem and blocks of our own pretrained backbone; none in a tower of transformers."""
    if isinstance(model.vision, TransformersTower):
        return []
    return [model.vision.backbone.stem, *model.vision.backbone.blocks]


def _bottom_and_top(
    vision: VisionTower | TransformersTower,
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is pretrained in a vision tower, in two parts."""
    if isinstance(vision, TransformersTower):
        return vision.bottom_and_top()
    stem, blocks = vision.backbone.stem, vision.backbone.blocks
    bottom = [*stem.parameters(), *blocks[:TOP].parameters()]
    return bottom, list(blocks[TOP:].parameters())


def freeze(model: EdgeMM, stage: Stage) -> None:
    """Only the stage's parts learn; what does not learn keeps its running statistics.

    With LoRA the decoder's adapters learn instead of its weights, and in a language model that is
    not ours the embeddings too, for our tokens are new to it.
    """
    for name, parameters in parts(model).items():
        for parameter in parameters:
            parameter.requires_grad_(name in stage.parts)
    if stage.lora:
        for name, parameter in model.lm.named_parameters():
            parameter.requires_grad_("lora_" in name and "language" in stage.parts)
    if stage.lora and model.config.language_model is not None:
        for table in (model.lm.get_input_embeddings(), model.lm.get_output_embeddings()):
            table.weight.requires_grad_("language" in stage.parts)
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def optimizers(
    model: EdgeMM, stage: Stage, train: Train, own: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """AdamW for all that learns; with `train.muon`, Muon for the transformers' matrices.

    `own` is what losses learn beside the model.
    """
    matrices = _transformer_matrices(model) if train.muon else set()
    adamw, muon = [], []
    for name, parameters in (*parts(model).items(), ("losses", own)):
        rate_of_part = stage.learning_rate * stage.part_rates.get(name, 1.0)
        learning = [p for p in parameters if p.requires_grad]
        rest = [p for p in learning if id(p) not in matrices]
        for groups, chosen, lr, weight_decay in (
            (muon, [p for p in learning if id(p) in matrices], MUON_RATE, train.weight_decay),
            (adamw, [p for p in rest if p.dim() in (2, 4)], 1.0, train.weight_decay),
            (adamw, [p for p in rest if p.dim() not in (2, 4)], 1.0, 0.0),
        ):
            if chosen:
                groups.append(
                    {"params": chosen, "lr": lr * rate_of_part, "weight_decay": weight_decay}
                )
    found: list[torch.optim.Optimizer] = []
    if adamw:
        found.append(torch.optim.AdamW(adamw, betas=(0.9, 0.98), fused=True))
    if muon:
        found.append(Muon(muon, adjust_lr_fn="match_rms_adamw"))
    return found


class Muon(torch.optim.Muon):
    """torch's Muon makes updates orthogonal in bf16; in fp32 where the device has no bf16."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parameters, which are on one device."""
        device = self.param_groups[0]["params"][0].device
        with nullcontext() if has_bf16(device) else _NoBf16():
            loss: float | None = super().step(closure)
        return loss


class _NoBf16(TorchFunctionMode):
    """Within it, what asks a tensor for a copy in bf16 gets one in fp32."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


def _transformer_matrices(model: EdgeMM) -> set[int]:
    """ids of the weights inside the transformers' layers: what Muon is made for."""
    fused = [] if model.fusion is None else [model.fusion]
    layers = (stack(model.vision.encoder), stack(model.decoder), *fused)
    return {id(p) for module in layers for p in module.parameters() if p.dim() == 2}


def rate(stage: Stage, step: int) -> float:
    """Warm-up, plateau, decay: the factor on the learning rate at a step."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    left = stage.steps - step
    if left < stage.decay:
        return max(0.01, 0.5 - 0.5 * math.cos(math.pi * left / stage.decay))
    return 1.0
