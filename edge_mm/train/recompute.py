"""Activation checkpointing (arXiv 1604.06174): layers run again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_activations(model: nn.Module) -> None:
    """Of each transformer layer keep its input only; the losses and gradients stay the same."""
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
