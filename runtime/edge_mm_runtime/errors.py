"""One exception class per thing that a caller would catch.

Every message says what is wrong, where, and what to do. The command line prints it as one line
(`error: ...`) and ends with exit code 2.
"""

from __future__ import annotations


class EdgeMMError(Exception):
    """Base of every error that edge_mm raises for a user's mistake or a missing piece."""


class UsageError(EdgeMMError):
    """A call that cannot be answered as it was made: empty text, an unknown mode, a bad option."""


class ImageError(EdgeMMError):
    """A picture that cannot be read, or an array that is not a camera frame."""


class SourceError(EdgeMMError):
    """A camera, video or folder that cannot be opened, or gives no frame that can be used."""


class SourceEnded(SourceError):
    """There is no next frame: the last one was given, or the source is closed."""


class BundleError(EdgeMMError):
    """A bundle that is missing, damaged, of another schema, or does not match its graphs."""


class MissingExtraError(EdgeMMError):
    """An optional package is not installed; names the extra that brings it."""

    def __init__(self, module: str, extra: str, reason: str = "is not installed") -> None:
        super().__init__(f"{module} {reason}: pip install 'edge-mm[{extra}]'")
        self.module = module
        self.extra = extra
