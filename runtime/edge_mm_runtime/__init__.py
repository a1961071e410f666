"""edge_mm_runtime: ask a small grounded vision-language model about camera frames.

    from edge_mm_runtime import Session

    with Session() as session:
        answer = session.ask(frame, "find the red cup")

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_mm_runtime.answer import Answer, GroundedObject, Step
    from edge_mm_runtime.errors import EdgeMMError
    from edge_mm_runtime.image import ImageTransform
    from edge_mm_runtime.session import Session
    from edge_mm_runtime.watch import Look

__all__ = ["Answer", "EdgeMMError", "GroundedObject", "ImageTransform", "Look", "Session", "Step"]

_HOMES = {
    "Answer": "answer",
    "EdgeMMError": "errors",
    "GroundedObject": "answer",
    "ImageTransform": "image",
    "Look": "watch",
    "Session": "session",
    "Step": "answer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
