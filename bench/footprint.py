"""What the runtime takes of a robot: disk, import time, cold start, memory.

python bench/footprint.py [--picture examples/frames/fridge_03.jpg]

Installs edge-mm[cpu] and nothing else into a throw-away environment (needs PyPI), and measures
there. Times are the median of five processes.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import tempfile
import time
import venv
from pathlib import Path

QUESTION = "find the red can"
PROCESSES = 5


def main() -> None:
    """Install, measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture", type=Path, default=Path("examples/frames/fridge_03.jpg"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        packages = next(Path(folder, "lib").glob("python*")) / "site-packages"
        before = sizes(packages)
        subprocess.run([python, "-m", "pip", "install", "--quiet", ".[cpu]"], check=True)
        added = {
            name: size - before.get(name, 0)
            for name, size in sizes(packages).items()
            if size > before.get(name, 0)
        }
        command = [python, "-m", "edge_mm.cli", "ask", arguments.picture, QUESTION]
        bench = [python, "-m", "edge_mm.cli", "bench", "--rounds", "20", "--json"]
        peak = json.loads(subprocess.run(bench, check=True, capture_output=True).stdout)
        rows = {
            "environment, MB": sum(added.values()) / 1e6,
            "import edge_mm_runtime, ms": statistics.median(
                import_ms(python) for _ in range(PROCESSES)
            ),
            "cold start to answer, s": statistics.median(
                seconds(command) for _ in range(PROCESSES)
            ),
            "peak memory, MB": peak["peak_memory_bytes"] / 1e6,
        }
    print("| what | measured |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.3g} |")
    largest = sorted(added.items(), key=lambda item: -item[1])[:8]
    print("\nlargest: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in largest))


def sizes(packages: Path) -> dict[str, int]:
    """Bytes on disk of each entry of a site-packages folder."""
    return {
        entry.name: sum(
            file.stat().st_size for file in [entry, *entry.rglob("*")] if file.is_file()
        )
        for entry in packages.iterdir()
    }


def import_ms(python: Path) -> float:
    """The cumulated time that `python -X importtime` gives to the package."""
    command = [python, "-X", "importtime", "-c", "import edge_mm_runtime"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    match = re.search(r"(\d+) \| edge_mm_runtime$", shown, re.M)
    if match is None:
        raise RuntimeError("python -X importtime does not name edge_mm_runtime")
    return int(match[1]) / 1000


def seconds(command: list[object]) -> float:
    """Wall time of a process."""
    started = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
