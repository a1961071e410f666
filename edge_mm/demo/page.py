"""The demo's page: one HTML file with everything inside, nothing loaded from anywhere.

Boxes and points are an SVG layer over each picture in frame pixels, a colour for each question.
"""

from __future__ import annotations

import base64
from importlib.resources import files
from statistics import median
from typing import NamedTuple

from edge_mm.demo.judge import Verdict
from edge_mm_runtime.answer import Answer, Mode
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame

COLORS = ("#ff5d5d", "#2ec4ff", "#ffb020", "#35d07f", "#c58bff", "#ff7ad1")
SHOWN_PX = 520  # the longer side of a picture on the page


class Row(NamedTuple):
    """One question and what came back."""

    question: str
    answer: Answer
    latency_ms: float
    mode: Mode = "auto"
    verdict: Verdict | None = None

    def places(self) -> list[tuple[float, ...]]:
        """What to show of each object: its point where a point was asked, else its box."""
        return [
            (item.point_xy if self.mode == "point" else item.box_xyxy or item.point_xy) or ()
            for item in self.answer.objects
        ]


class Card(NamedTuple):
    """One picture (or video frame) with its questions."""

    title: str
    frame: Frame
    rows: list[Row]
    rendered: bool = False


class Film(NamedTuple):
    """One question about a video, asked at several frames; a card each, titled by its time."""

    title: str
    question: str
    cards: list[Card]


class Score(NamedTuple):
    right: int
    judged: int
    questions: int
    median_ms: float


def score(cards: list[Card]) -> Score:
    """How many of the judged answers are right, and the median latency."""
    rows = [row for card in cards for row in card.rows]
    judged = [row.verdict.right for row in rows if row.verdict is not None]
    latency_ms = median(row.latency_ms for row in rows) if rows else 0.0
    return Score(sum(judged), len(judged), len(rows), latency_ms)


def render_page(model: str, cards: list[Card], films: list[Film]) -> str:
    """The whole page as one HTML text."""
    import minijinja

    template = files("edge_mm.demo").joinpath("page.html").read_text(encoding="utf-8")
    environment = minijinja.Environment(templates={"page.html": template}, trim_blocks=True)
    return environment.render_template(
        "page.html",
        model=model,
        total=score(cards)._asdict(),
        real=score([card for card in cards if not card.rendered])._asdict(),
        rendered=score([card for card in cards if card.rendered])._asdict(),
        cards=[_view(card) for card in cards],
        films=[
            {
                "title": film.title,
                "question": film.question,
                "median_ms": score(film.cards).median_ms,
                "cards": [_view(card) for card in film.cards],
            }
            for film in films
        ],
    )


def _view(card: Card) -> dict[str, object]:
    height, width = card.frame.shape[:2]
    return {
        "title": card.title,
        "width": width,
        "height": height,
        "image": data_uri(card.frame),
        "rows": [
            {
                "question": row.question,
                "text": row.answer.text,
                "color": COLORS[index % len(COLORS)] if row.answer.objects else None,
                "latency_ms": row.latency_ms,
                "right": row.verdict.right if row.verdict else None,
                "why": row.verdict.why if row.verdict else None,
                "objects": [
                    {"label": item.label, "place": place}
                    for item, place in zip(row.answer.objects, row.places(), strict=True)
                ],
            }
            for index, row in enumerate(card.rows)
        ],
    }


def data_uri(frame: Frame, shown_px: int = SHOWN_PX) -> str:
    """The picture inside the page, its longer side at most `shown_px`."""
    cv2 = require("cv2", "cpu")
    scale = min(1.0, shown_px / max(frame.shape[:2]))
    if scale < 1.0:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")
