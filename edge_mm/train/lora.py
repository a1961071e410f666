"""LoRA on the language model (arXiv 2106.09685), by peft; a checkpoint always has it merged in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.train.recipe import Lora

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER = "default"


def add_lora(model: EdgeMM, lora: Lora) -> None:
    """Adapters beside every matrix of the decoder's layers; at first they change nothing."""
    from peft import LoraConfig, inject_adapter_in_model  # seconds that most runs need not spend

    if not has_lora(model):
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=MATRICES)
        inject_adapter_in_model(config, model.lm, ADAPTER)


def has_lora(model: EdgeMM) -> bool:
    return any(".lora_" in name for name, _ in model.lm.named_parameters())


def merge_lora(model: EdgeMM) -> None:
    """The adapters into the weights, and away with them."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.lm.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.lm.get_submodule(parent), child, module.get_base_layer())


def merged(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """A state dict with adapters -> the state dict of the plain model."""
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        stem, base, kind = name.partition(".base_layer.")
        if base and kind == "weight":
            a, b = (weights[f"{stem}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
            plain[f"{stem}.{kind}"] = torch.addmm(tensor, b, a, alpha=lora.alpha / lora.rank)
        elif ".lora_" not in name:
            plain[name.replace(".base_layer.", ".")] = tensor
    return plain
