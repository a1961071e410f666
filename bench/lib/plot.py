"""The roofline as an SVG: what each engine reached, under what the machine can do.

Axes are logarithmic: operations per byte that must be read, and operations a second (Williams et
al. 2009). The roof is the measured read bandwidth up to the rate of 8-bit products; the rate of
fp32 products is a line of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from bench.lib.results import Load, Machine

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 520, 70, 250, 30, 60
_COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e6c88", "#b08900", "#4a4e69", "#d62246", "#2a9d8f")
_OURS, _ROOF = "#111111", "#888888"
_LABEL = (40, 13)  # pixels that a label needs


class Point(NamedTuple):
    """A work of an engine: what it took, in seconds, and what it had to do."""

    engine: str
    work: str
    ours: bool
    load: Load
    took_s: float

    @property
    def family(self) -> str:
        """The engine without its precision: what has a colour."""
        return self.engine.split(maxsplit=1)[0]


def draw(points: Sequence[Point], machine: Machine) -> str:
    """The picture as text. ValueError without a point."""
    if not points:
        raise ValueError("there is no point to draw")
    axes = _Axes(points, machine)
    svg = ElementTree.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        attrib={"font-family": "sans-serif", "font-size": "12"},
    )
    ElementTree.SubElement(svg, "rect", width="100%", height="100%", fill="white")
    _grid(svg, axes)
    _roof(svg, axes, machine)
    families = {point.family: point.ours for point in points}
    peers = [name for name, ours in families.items() if not ours]
    colours = {name: _OURS if ours else _colour(peers, name) for name, ours in families.items()}
    labelled: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: point.ours):  # ours on top
        _mark(svg, axes, point, colours[point.family], labelled)
    _legend(svg, colours)
    return ElementTree.tostring(svg, encoding="unicode")


class _Axes:
    """Where a value is on the paper; a decade has the same length everywhere on an axis."""

    def __init__(self, points: Sequence[Point], machine: Machine) -> None:
        ridge = machine.int8_operations_s / machine.read_bytes_s
        across = [point.load.operations / point.load.bytes for point in points] + [ridge]
        up = [point.load.operations / point.took_s for point in points]
        up.append(machine.int8_operations_s)
        self.x_range = _decades(across)
        self.y_range = _decades(up)

    def x(self, intensity: float) -> float:
        """Of operations per byte."""
        low, high = self.x_range
        share = (math.log10(intensity) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        """Of operations a second."""
        low, high = self.y_range
        share = (math.log10(rate) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 1


def _grid(svg: ElementTree.Element, axes: _Axes) -> None:
    for power in range(axes.x_range[0], axes.x_range[1] + 1):
        x = axes.x(10.0**power)
        _line(svg, (x, TOP), (x, HEIGHT - BOTTOM), "#eeeeee")
        _text(svg, x, HEIGHT - BOTTOM + 18, f"{10.0**power:g}", "middle")
    for power in range(axes.y_range[0], axes.y_range[1] + 1):
        y = axes.y(10.0**power)
        _line(svg, (LEFT, y), (WIDTH - RIGHT, y), "#eeeeee")
        _text(svg, LEFT - 8, y + 4, f"{10.0 ** (power - 9):g}", "end")
    middle = (LEFT + WIDTH - RIGHT) / 2
    _text(svg, middle, HEIGHT - 18, "operations per byte that must be read", "middle")
    _text(svg, LEFT, TOP - 12, "GOP/s", "middle")


def _roof(svg: ElementTree.Element, axes: _Axes, machine: Machine) -> None:
    left, right = (10.0**power for power in axes.x_range)
    floor = 10.0 ** axes.y_range[0]
    start = max(left, floor / machine.read_bytes_s)
    for rate, name in (
        (machine.int8_operations_s, "8-bit products"),
        (machine.fp32_operations_s, "fp32 products"),
    ):
        ridge = min(rate / machine.read_bytes_s, right)
        _line(svg, (axes.x(ridge), axes.y(rate)), (axes.x(right), axes.y(rate)), _ROOF)
        _text(svg, axes.x(right) - 4, axes.y(rate) - 5, f"{name} {rate / 1e9:.0f}", "end")
    ridge = min(machine.int8_operations_s / machine.read_bytes_s, right)
    below = (axes.x(start), axes.y(start * machine.read_bytes_s))
    _line(svg, below, (axes.x(ridge), axes.y(ridge * machine.read_bytes_s)), _ROOF)
    words = f"read {machine.read_bytes_s / 1e9:.0f} GB/s"
    _text(svg, below[0] + 14, below[1] - 10, words, "start")


def _mark(
    svg: ElementTree.Element,
    axes: _Axes,
    point: Point,
    colour: str,
    labelled: list[tuple[float, float]],
) -> None:
    """A dot that says what it is under the mouse; ours with a label where there is room for one."""
    x = axes.x(point.load.operations / point.load.bytes)
    y = axes.y(point.load.operations / point.took_s)
    mark = ElementTree.SubElement(
        svg, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="6" if point.ours else "4.5", fill=colour
    )
    rate = point.load.operations / point.took_s / 1e9
    title = ElementTree.SubElement(mark, "title")
    title.text = f"{point.engine}, {point.work}: {rate:.1f} GOP/s"
    crowded = any(abs(x - a) < _LABEL[0] and abs(y - b) < _LABEL[1] for a, b in labelled)
    if point.ours and not crowded:
        _text(svg, x + 9, y + 4, point.engine.split(maxsplit=1)[-1], "start")
        labelled.append((x, y))


def _legend(svg: ElementTree.Element, colours: Mapping[str, str]) -> None:
    for number, (family, colour) in enumerate(colours.items()):
        y = TOP + 18 * number
        ElementTree.SubElement(
            svg, "circle", cx=str(WIDTH - RIGHT + 16), cy=str(y), r="5", fill=colour
        )
        _text(svg, WIDTH - RIGHT + 28, y + 4, family, "start")


def _colour(peers: Sequence[str], name: str) -> str:
    return _COLOURS[peers.index(name) % len(_COLOURS)]


def _line(
    svg: ElementTree.Element, a: tuple[float, float], b: tuple[float, float], colour: str
) -> None:
    (x1, y1), (x2, y2) = ((f"{x:.1f}", f"{y:.1f}") for x, y in (a, b))
    ElementTree.SubElement(svg, "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour)


def _text(svg: ElementTree.Element, x: float, y: float, words: str, anchor: str) -> None:
    text = ElementTree.SubElement(svg, "text", x=f"{x:.1f}", y=f"{y:.1f}")
    text.set("text-anchor", anchor)
    text.text = words
