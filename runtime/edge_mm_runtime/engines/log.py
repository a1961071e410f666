"""What TensorRT says, kept: its calls return only True or None, the reasons are in its log."""

from __future__ import annotations

from typing import Any

_UNUSED = "unused input"
_KEPT = 1000  # lines of each kind: a robot runs for days


class Messages:
    """Errors and warnings in the order in which they came."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, lines: list[str], line: str) -> None:
        """Keep a line of one kind; the oldest are forgotten."""
        lines.append(line)
        del lines[:-_KEPT]

    def reasons(self) -> str:
        """The last errors in one line."""
        return "; ".join(self.errors[-2:]) or "TensorRT gave no reason"

    def unused_inputs(self) -> list[str]:
        """Inputs that the parser or the builder dropped.

        An operator's optional input that TensorRT does not know (Attention's nonpad_kv_seqlen) is
        dropped with no more than this warning, and the engine computes something else.
        """
        return [line.split(":", 1)[-1].strip() for line in self.warnings if _UNUSED in line.lower()]


def logger(trt: Any, messages: Messages) -> Any:
    """TensorRT's own interface to `Messages`. Its method must not raise: C++ calls it."""
    severity = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc]  # known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            line = " ".join(text.split())
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                messages.add(messages.errors, line)
            elif level == severity.WARNING:
                messages.add(messages.warnings, line)

    return Log()
