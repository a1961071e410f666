"""Quantise a GGUF file by llama.cpp itself.

python bench/peers/llama_quantise.py IN OUT Q4_0|Q8_0
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp


def main() -> None:
    source, out, kind = sys.argv[1:]
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = 1
    reference = ctypes.byref(parameters)
    if failed := llama_cpp.llama_model_quantize(source.encode(), out.encode(), reference):
        sys.exit(f"llama.cpp cannot quantise {source} to {kind}: {failed}")


if __name__ == "__main__":
    main()
