"""Import of optional packages, so that a missing one is answered by the name of its extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from edge_mm_runtime.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError naming the `extra` of edge-mm that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise MissingExtraError(module, extra) from None
        raise MissingExtraError(module, extra, f"needs {error.name}") from None
    except ImportError as error:  # installed, but a system library is missing
        raise MissingExtraError(module, extra, f"cannot be loaded ({error})") from None
