"""The GGUF file that llama.cpp quantises: the weights as others round them, and all metadata."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from bench.lib.gguf_weights import rounded

Q8_0, BF16 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.BF16


def test_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = quantize(rng.normal(size=(4, 64)).astype(np.float32), Q8_0)
    vector = rng.normal(size=64).astype(np.float32)
    writer = GGUFWriter(tmp_path / "source.gguf", "llama")
    writer.add_file_type(7)
    writer.add_block_count(3)
    writer.add_token_list(["a", "b"])
    writer.add_add_bos_token(False)
    writer.add_tensor("output.weight", matrix, raw_dtype=Q8_0)
    writer.add_tensor("output_norm.weight", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    rounded(tmp_path / "source.gguf", tmp_path / "out.gguf")

    reader = GGUFReader(tmp_path / "out.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found["output.weight"].tensor_type == BF16
    for name, exact in (
        ("output.weight", dequantize(matrix, Q8_0)),
        ("output_norm.weight", vector),
    ):
        values = dequantize(found[name].data, found[name].tensor_type)
        expected = exact.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(values, expected)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["llama.block_count"] == 3
    assert fields["tokenizer.ggml.tokens"] == ["a", "b"]
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["general.file_type"] == 32  # mostly bfloat16
