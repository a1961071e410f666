"""Watch a camera, a video or a folder: one question about frame after frame.

python examples/watch_camera.py 0 "find the red cup"
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from edge_mm_runtime import Session
from edge_mm_runtime.sources import open_source

if TYPE_CHECKING:
    from edge_mm_runtime import Answer


def main(source: str = "0", text: str = "find the red cup", frames: str = "") -> None:
    """Answer until the source ends, Ctrl-C, or so many `frames`."""
    with Session("default") as session, open_source(source) as camera:
        for grab in islice(camera, int(frames) if frames else None):
            # A camera gives its newest frame only; its timestamp makes answer.age_s true.
            taken = grab.timestamp_s if camera.live else None
            answer = session.ask(
                grab.frame, text, mode="locate", frame_id=grab.frame_id, timestamp_s=taken
            )
            print(f"frame {answer.frame_id}, {answer.age_s:.2f} s old: {told(answer)}")


def told(answer: Answer) -> str:
    """What a robot would act on: the objects with their places, or that there is none."""
    if not answer.found:
        return "not in view"
    return ", ".join(
        f"{item.label} at {[round(value) for value in item.box_xyxy or item.point_xy or ()]}"
        for item in answer.objects
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
