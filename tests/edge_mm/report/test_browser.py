"""The page in a real browser: what the slider moves. Needs Chromium (`make test` installs it)."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_mm.report.alignment import figures
from edge_mm.report.page import Report, render_page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=20000", "--window-size=1200,900", "--dump-dom",
)  # fmt: skip

# In front of the page's own script, so that its mistakes are heard.
LISTEN = (
    '<script>const errors = []; addEventListener("error", e => errors.push(e.message));</script>'
)
PROBE = """<script>
const wait = ms => new Promise(done => setTimeout(done, ms));
const text = id => document.getElementById(id).textContent;

function state() {
  const matrix = document.getElementById("matrix"), n = matrix.width;
  const pixels = matrix.getContext("2d").getImageData(0, 0, n, n).data;
  const light = { diagonal: [], rest: [] };  // green grows along viridis
  for (let i = 0; i < n * n; i++) light[i % (n + 1) ? "rest" : "diagonal"].push(pixels[4 * i + 1]);
  const mean = values => values.reduce((a, b) => a + b) / values.length;
  const apart = [...document.querySelectorAll("#plane line")].map(line => {
    const [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(name => Number(line.getAttribute(name)));
    return Math.hypot(x1 - x2, y1 - y2);
  });
  const cell = document.querySelectorAll(".map rect")[8], box = cell.getBoundingClientRect();
  return {
    value: Number(document.getElementById("step-slider").value),
    diagonal: text("diagonal-mean"), rest: text("rest-mean"), step: text("step-name"),
    light: mean(light.diagonal) - mean(light.rest), apart: mean(apart), cell: cell.textContent,
    fill: getComputedStyle(cell).fill, marked: document.querySelectorAll("tr.now").length,
    now: Number(document.querySelector("line.now").getAttribute("x1")), shown: box.width > 10,
  };
}

async function probe() {
  const slider = document.getElementById("step-slider"), found = { opened: state(), moved: [] };
  for (let step = 0; step <= Number(slider.max); step++) {
    slider.value = step;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await wait(800);
    found.moved.push(state());
  }
  location.hash = "#step=1";
  await wait(800);
  found.hash = state();
  const matrix = document.getElementById("matrix").getBoundingClientRect();
  const cell = matrix.width / 8;  // the pointer goes to row 4, column 2
  const at = { clientX: matrix.left + 2.5 * cell, clientY: matrix.top + 4.5 * cell };
  document.getElementById("matrix").dispatchEvent(new MouseEvent("mousemove", at));
  found.pair = text("pair");
  found.play = text("play");
  document.getElementById("play").click();
  await wait(6000);
  found.played = state();
  found.errors = errors;
  found.loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}
probe();
</script>"""


def browse(page: Path, profile: Path) -> str:
    """The page's elements after its scripts have run."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.fail("no Chromium: sudo apt-get install --no-install-recommends chromium")
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_the_slider_moves_everything(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    whole = render_page(report).replace("<body>", f"<body>{LISTEN}")
    page.write_text(whole.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dumped = re.search(r'<pre id="probe">(.*?)</pre>', browse(page, tmp_path / "profile"), re.S)
    assert dumped, "the probe did not end"
    found: dict[str, Any] = json.loads(html.unescape(dumped[1]))
    assert found["errors"] == []
    assert all(name.startswith("data:") for name in found["loaded"])

    moved = found["moved"]
    true = [figures(look, report.subjects) for look in report.looks]
    for name in ("diagonal", "rest"):
        assert [float(state[name]) for state in moved] == pytest.approx(
            [one[name] for one in true], abs=6e-4
        )
    diagonals = [float(state["diagonal"]) for state in moved]
    assert diagonals == sorted(diagonals) and diagonals[-1] > diagonals[0] + 0.5
    lights, apart = [s["light"] for s in moved], [s["apart"] for s in moved]
    assert lights == sorted(lights) and lights[-1] > lights[0] + 30, "the diagonal does not sharpen"
    assert apart == sorted(apart, reverse=True) and apart[-1] < 0.01, "pairs do not meet"

    assert [state["value"] for state in moved] == [0, 1, 2, 3]
    assert [state["now"] for state in moved] == [0, 100, 200, 300]
    assert all(state["marked"] == 1 and state["shown"] for state in moved)
    assert moved[2]["step"] == "align, step 20: 320 samples"
    words = ("cup", "mug", "bowl", "plate")
    assert [state["cell"] for state in moved] == [f"{word} 0.90" for word in words]
    assert len({state["fill"] for state in moved}) == 4

    assert found["opened"] == moved[3]
    assert found["hash"] == moved[1]
    assert found["played"] == moved[3] and found["play"] == "Play"
    assert found["pair"].startswith("“caption 2 </script><b>”: cosine")
    cosine = json.loads(whole.split('id="data">')[1].split("</script>")[0])["looks"][1]["cosines"]
    assert found["pair"].endswith(f"{cosine[4][2]:.2f}")
