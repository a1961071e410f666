"""Reading a model of transformers, in as little memory as may be.

safetensors are mapped: a weight is memory of the checkpoint's file, which the system may take back,
until it is changed or copied.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes.util
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from edge_mm_export.errors import ExportError


def load_model(folder: Path) -> Any:
    """transformers' own class of a folder, in the checkpoint's types; ExportError with one line.

    No code that the folder holds is run, and no pickle is opened.
    """
    try:
        with _without_progress():
            found: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype="auto",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # of many kinds; shapes that differ are a RuntimeError
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"transformers cannot read the model in {folder}: {reason}") from None
    model, loading = found
    if missing := sorted(loading["missing_keys"]):
        raise ExportError(
            f"the weights in {folder} lack {missing[0]}, one of {len(missing)} that config.json "
            "implies: download the checkpoint again"
        )
    for part in model.modules():
        if hasattr(part, "scalar_embed_scale"):  # Gemma 3's, which was rounded to the weights' type
            part.embed_scale = torch.tensor(float(part.scalar_embed_scale))
    model.eval()
    return model


def give_back() -> None:
    """Hand freed memory back to the system: modules refer to themselves, and glibc keeps pages."""
    gc.collect()
    libc = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(libc), "malloc_trim", None) if libc else None
    if trim is not None:
        trim(0)


def without_part(body: Any, part: str) -> Any:
    """A shallow copy that lacks a part: what is traced with a model is held by its graph."""
    copied = copy.copy(body)
    copied._modules = {name: module for name, module in body._modules.items() if name != part}
    return copied


def copied_in_fp32(part: nn.Module) -> None:
    """Take a part into memory, in fp32: a view would hold all of the checkpoint's file there."""
    for parameter in part.parameters():
        parameter.data = parameter.data.to(torch.float32, copy=True)
    part.float()  # buffers


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """transformers draws a bar for each model that it reads."""
    logs: Any = logging
    shown = logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logs.enable_progress_bar()
