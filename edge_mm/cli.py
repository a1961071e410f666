"""The `edge-mm` command: a table of names, loaded on demand.

Each command is `module:function` with the signature `main(argv) -> int` and parses its own
arguments. This file imports nothing heavy, so `edge-mm --help` works on any machine.

Exit codes: 0 done, 1 failed check, 2 usage or bad input (one line on stderr, no traceback).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("edge_mm.demo.command:main", "answers on the shipped pictures, as a small web page"),
    "ask": ("edge_mm_runtime.commands.ask:main", "ask one question about one picture"),
    "run": ("edge_mm_runtime.commands.run:main", "answer from a camera, a video or a folder"),
    "data": ("edge_mm.data.command:main", "render, convert or check training data"),
    "train": ("edge_mm.train.command:main", "train a model from a recipe"),
    "eval": ("edge_mm.evaluate.command:main", "score a checkpoint or a bundle"),
    "calibrate": (
        "edge_mm.evaluate.calibrate:main",
        "fit a checkpoint's threshold and confidences",
    ),
    "report": ("edge_mm.report.command:main", "a page about a run: alignment, curves, failures"),
    "export": ("edge_mm_export.command:main", "turn a checkpoint into a verified bundle"),
    "build": (
        "edge_mm_runtime.commands.build:main",
        "build TensorRT engines of a bundle, on the device",
    ),
    "check": ("edge_mm_runtime.commands.check:main", "verify a bundle's files and its answers"),
    "bench": ("edge_mm_runtime.commands.bench:main", "measure how long an answer takes here"),
    "doctor": ("edge_mm_runtime.commands.doctor:main", "show what this machine has"),
}

# Which extra brings a package, for the error when it is not installed.
EXTRAS = {
    "cv2": "cpu",
    "mujoco": "data",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "safetensors": "train",
    "tensorrt": "gpu",
    "tensorrt_rtx": "rtx",
    "torch": "train",
    "transformers": "train",
    "yaml": "train",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"edge-mm {version('edge-mm')}")
        return 0
    if name not in COMMANDS:
        return fail(unknown_command(name))
    return run_command(name, rest)


def run_command(name: str, argv: list[str]) -> int:
    """Import the command and run it; a user's mistake becomes one line and exit code 2."""
    from edge_mm_runtime.errors import EdgeMMError

    module, function = COMMANDS[name][0].split(":")
    try:
        return int(getattr(import_module(module), function)(argv))
    except EdgeMMError as error:
        return fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = EXTRAS[package]
        return fail(f"edge-mm {name} needs {package}: pip install 'edge-mm[{extra}]'")
    except BrokenPipeError:  # `edge-mm ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 0
    except OSError as error:  # a read-only or full disk, a missing file
        if error.strerror is None:
            raise
        place = f": {error.filename}" if error.filename else ""
        return fail(f"{error.strerror}{place}")
    except KeyboardInterrupt:
        return 130


def fail(message: str) -> int:
    """Print the one line that a user's mistake deserves."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def unknown_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
    return f"unknown command {name!r}; {hint}"


def help_text() -> str:
    rows = "\n".join(f"  {name:<11}{line}" for name, (_, line) in COMMANDS.items())
    return (
        "usage: edge-mm COMMAND [options]\n\n"
        "Small grounded vision-language models for robots: train, export, run.\n\n"
        f"{rows}\n\n"
        "edge-mm COMMAND --help tells a command's options, edge-mm --version the version."
    )


if __name__ == "__main__":
    sys.exit(main())
