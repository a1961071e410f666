"""The one error of engines."""

from __future__ import annotations

from edge_mm_runtime.errors import EdgeMMError


class EngineError(EdgeMMError):
    """An engine that cannot be built here, or that is damaged or made for another machine."""
