"""Turn a checkpoint into a bundle for the robot, and see what the export changed.

    python examples/export_and_check.py models/nano my_bundle

Needs edge-mm[export]. An export that changes too many answers writes no bundle and says why.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_mm.demo.questions import shipped_frames
from edge_mm_export.export import export_checkpoint
from edge_mm_runtime import Session
from edge_mm_runtime.image import read_image

if __name__ == "__main__":
    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    frames = shipped_frames()
    export_checkpoint(checkpoint, out, frames=frames, precision="int8", say=print)
    with Session(out) as session:
        for step in session.bundle.manifest.verification["steps"]:
            print(
                f"{step['step']}: mean IoU with torch {step['mean_iou']:.3f}, "
                f"same answers {step['same_answers']:.2f} of {step['questions']}"
            )
        answer = session.ask(read_image(frames / "fridge_03.jpg"), "find the red can")
        print(answer.text, answer.objects)
