"""One of our checkpoints as a LLaVA folder of transformers, for every other tool to load."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from edge_mm.model.checkpoint import load_model
from edge_mm.model.llava import save_llava
from edge_mm_export.errors import ExportError
from edge_mm_export.export import beside, check_folders
from edge_mm_export.families.files import is_transformers


def export_llava(
    checkpoint: Path, out: Path, *, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Write the LLaVA folder of a checkpoint to `out` (new or empty); nothing if it is none.

    Raises UsageError with the reason where LLaVA has no place for a part of the model, and the
    errors of `export_checkpoint` for folders that cannot be read or written.
    """
    check_folders(checkpoint, out)
    if is_transformers(checkpoint):
        raise ExportError(f"{checkpoint} is a folder of transformers already")
    with beside(out) as scratch:
        say(f"reading {checkpoint}")
        model = load_model(checkpoint)
        folder = scratch / "llava"
        loader = save_llava(model, Tokenizer.from_file(str(checkpoint / "tokenizer.json")), folder)
        if (checkpoint / "LICENSE").is_file():
            shutil.copy(checkpoint / "LICENSE", folder / "LICENSE")
        folder.rename(out)
    say(f"wrote {out}: transformers.{loader}.from_pretrained({str(out)!r}) loads it")
    return out
