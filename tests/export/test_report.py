"""report.html on traces made by hand: figures by type, three colours, which frames, its size."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from edge_mm_export.islands import Islands
from edge_mm_export.probe import Trace
from edge_mm_export.report import FARTHEST, OTHERS, render_report
from edge_mm_export.samples import Sample
from edge_mm_export.verify import Gate, Verification, compare
from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.bundle import (
    BundleManifest,
    DecoderGeometry,
    GraphSet,
    Grounding,
    Provenance,
)
from edge_mm_runtime.image import ImageTransform
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt

FRAMES = 20
LOGITS = np.array([1.0, 2.0, 3.0], np.float32)
RNG = np.random.default_rng(1)


def located(x: float, label: str = "cup") -> Trace:
    item = GroundedObject(label, (x, 10.0, x + 40, 50.0), (x + 20, 50.0), 0.9)
    return Trace(Answer(label, (item,), True, (), "stop", {}), (1, 2, 3), 3, {3: LOGITS})


def words(text: str) -> Trace:
    return Trace(Answer(text, (), None, (), "stop", {}), (1, 2, 3), 3, {3: LOGITS})


SAMPLES = [
    sample
    for number in range(FRAMES)
    for frame in [RNG.integers(0, 255, (1080, 1920, 3), dtype=np.uint8)]
    for sample in (
        Sample(f"{number:02}.png", frame, f"find <cup> {number}", "locate"),
        Sample(f"{number:02}.png", frame, "how many?", "count"),
    )
]
TRACES: dict[str, list[Trace]] = {
    "torch": [located(20.0 + i) if i % 2 == 0 else words("2") for i in range(2 * FRAMES)],
    "fp32": [located(20.0 + i) if i % 2 == 0 else words("2") for i in range(2 * FRAMES)],
    "int8": [located(20.5 + i) if i % 2 == 0 else words("2") for i in range(2 * FRAMES)],
}
FAR, LOST, COUNTED = 8, 14, 3  # questions: a box far off, another word, another number
TRACES["int8"][FAR] = located(40.0 + FAR)
TRACES["int8"][LOST] = located(20.0 + LOST, "mug")
TRACES["int8"][COUNTED] = words("3")


def page(samples: Sequence[Sample], traces: dict[str, list[Trace]], islands: Islands) -> str:
    image = ImageTransform("squash", 64, 64)
    steps = tuple(
        compare(name, samples, traces["torch"], found, image, 128)
        for name, found in traces.items()
        if name != "torch"
    )
    verification = Verification(data="shots", frames=20, questions=40, gate=Gate(), steps=steps)
    kept = msgspec.to_builtins(verification)
    kept["quantisation"] = "GPTQ on 12 questions of others"
    kept["fp32_islands"] = msgspec.to_builtins(islands)
    manifest = BundleManifest(
        name="tiny",
        family="edge_mm",
        licence="",
        provenance=Provenance("0123456789abcdef", "", {}, "2026-11-22"),
        image=image,
        prompt=Prompt(NANO_TEMPLATE, "<image>", 4),
        stop_ids=(2,),
        grounding=Grounding("edge_mm", 128, "head"),
        decoder=DecoderGeometry(1, 1, 8, 16, 32, 8),
        graphs={"cpu": GraphSet("v", "d", "int8")},
        verification=kept,
    )
    return render_report(manifest, verification, samples, traces)


@pytest.fixture(scope="module")
def report() -> str:
    return page(SAMPLES, TRACES, Islands(("norm <1>",), ("layers.0.down",)))


def rows(report: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, row by row."""
    table = report.split(f"<h2>{heading}</h2>")[1].split("</table>")[0]
    return [
        [
            html.unescape(" ".join(re.sub("<[^>]*>", " ", cell).split()))
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    ]


def test_figures_by_step_and_by_type(report: str) -> None:
    steps = {name: values for name, *values in rows(report, "Step by step")}
    assert steps["against torch"] == ["fp32", "int8", "gate"]
    assert steps["answers equal"] == ["100.0 %", "95.0 %", "≥ 95.0 %"]
    assert steps["boxes"] == ["20", "20", ""]
    _, _, count, locate = rows(report, "By type of question")
    assert count == ["count", "20", "100 %", "", "", "", "95 %", "1", "", ""]
    # 18 boxes half a pixel off, one by 20 of its 40 pixels, one lost
    overlap = (18 * 39.5 / 40.5 + 20 / 60 + 0) / 20
    assert locate[:6] == ["locate", "20", "100 %", "", "1.000", "0.0000"]
    assert locate[6:9] == ["95 %", "1", f"{overlap:.3f}"]
    changed = rows(report, "Changed answers")[1:]
    assert [f"{LOST // 2:02}.png", f"find <cup> {LOST // 2}", "cup", "mug"] in changed
    assert [f"{COUNTED // 2:02}.png", "how many?", "2", "3"] in changed


def test_pictures_start_with_what_differs_most(report: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", report, re.DOTALL)
    assert FARTHEST < len(figures) <= FARTHEST + OTHERS
    assert f"{LOST // 2:02}.png" in figures[0] and f"{FAR // 2:02}.png" in figures[1]
    for style, x in (("torch", 20 + FAR), ("exact", 20 + FAR), ("stored", 40 + FAR)):
        assert f'class="{style}" x="{float(x)}"' in figures[1]
        assert f".{style} " in report  # a colour of its own
    key = report.split('<p class="key">')[1].split("</p>")[0]
    assert re.findall(r"</svg>(\w+)<", key) == ["torch", "fp32", "int8"]


def test_the_page_stays_below_a_megabyte(report: str) -> None:
    """The frames are noise, which no JPEG makes small."""
    assert 400_000 < len(report.encode()) < 1_000_000


def test_names_are_escaped(report: str) -> None:
    assert "norm &lt;1&gt;" in report and "<cup>" not in report
    assert "layers.0.down" in report and "GPTQ on 12 questions of others" in report


def test_exact_graphs_alone() -> None:
    traces = {"torch": TRACES["torch"][:2], "fp32": TRACES["fp32"][:2]}
    alone = page(SAMPLES[:2], traces, Islands())
    key = alone.split('<p class="key">')[1].split("</p>")[0]
    assert re.findall(r'class="(\w+)"', key) == ["torch", "exact"]
    assert "Changed answers" not in alone and "In fp32 where" not in alone
