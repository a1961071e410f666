"""Watch a camera, a video or a folder: one question, and its objects in every frame.

python examples/watch_camera.py 0 "find the red cup"
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from edge_mm_runtime import Session
from edge_mm_runtime.sources import open_source
from edge_mm_runtime.watch import watch

if TYPE_CHECKING:
    from edge_mm_runtime.watch import Look


def main(source: str = "0", text: str = "find the red cup", looks: str = "") -> None:
    """Watch until the source ends, Ctrl-C, or so many looks."""
    with Session("default") as session, open_source(source) as camera:
        watching = watch(camera, text, session)
        for look in islice(watching, int(looks) if looks else None):
            print(f"frame {look.grab.frame_id}: {told(look)}")
        print(camera.stats())


def told(look: Look) -> str:
    """What a robot would act on: the objects and where they are now, or that there is none."""
    answer = look.answer
    if answer.found is False:
        return "not in view"
    source = "answered" if look.fresh else "followed"
    places = [
        f"{item.label} #{item.track_id} at {[round(v) for v in item.box_xyxy or ()]}"
        for item in answer.objects
    ]
    return f"{source}: " + (", ".join(places) or "out of sight, the next answer will tell")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
