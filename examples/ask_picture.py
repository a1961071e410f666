"""Ask about a picture.

python examples/ask_picture.py picture.jpg "find the red cup"
"""

from __future__ import annotations

import sys

from edge_mm_runtime import Session
from edge_mm_runtime.draw import draw_answer
from edge_mm_runtime.image import read_image, write_image


def main(path: str = "examples/frames/fridge_03.jpg", text: str = "find the red can") -> None:
    """Print the answer and write it into answer.jpg."""
    frame = read_image(path)  # uint8, BGR: as cv2.VideoCapture gives it
    with Session("default") as session:
        answer = session.ask(frame, text)
        print(f"{text} -> {answer.text}  ({answer.timings_ms['total']:.0f} ms)")
        for item in answer.objects:
            print(f"  {item.label}: box {item.box_xyxy}, sure {item.confidence:.2f}")
        write_image("answer.jpg", draw_answer(frame, answer))

        # A second question about the same frame does not look at the picture again.
        print("describe the picture ->", session.ask(frame, "describe the picture").text)


if __name__ == "__main__":
    main(*sys.argv[1:])
