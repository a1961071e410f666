"""What can go wrong while exporting, one class per thing a caller would catch.

All derive from the runtime's `EdgeMMError`, so that the command line prints one clear line.
"""

from __future__ import annotations

from edge_mm_runtime.errors import EdgeMMError


class ExportError(EdgeMMError):
    """The export cannot be done as asked: wrong input, wrong folder, missing weight."""


class UnsupportedError(ExportError):
    """The model, target or precision is not one that this exporter knows; the message names it."""


class VerificationError(ExportError):
    """The exported graphs differ from torch by more than the gate allows; nothing was written."""
