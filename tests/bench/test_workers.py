"""The protocol between a bench and an engine's process, with an engine that computes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lib.workers import FIRST, TextEngine, Worker

ECHO = """
import time
from bench.lib.workers import FIRST, TextEngine, serve_text

class Echo(TextEngine):
    '''What follows is the sum of all that was read, modulo 97.'''
    def read(self, ids):
        time.sleep(1e-4 * len(ids))
        self.sum = sum(ids)
        return self.sum % 97
    def step(self, token):
        time.sleep(1e-3)
        self.sum += token
        return self.sum % 97

print("loading: 100 %")
serve_text(Echo(97))
print("BENCH_ANSWER is never seen: the input has ended")
"""


@pytest.fixture(scope="module")
def worker(repository: Path) -> Iterator[Worker]:
    with Worker(["env", f"PYTHONPATH={repository}", sys.executable, "-c", ECHO]) as worker:
        yield worker


def test_it_continues(worker: Worker) -> None:
    sums, expected = 5 + 6 + 90, []
    for _ in range(5):
        expected.append(sums % 97)
        sums += expected[-1]
    assert worker.ask({"continue": [5, 6, 90], "tokens": 5}) == expected
    assert worker.ask({"continue": [1, 2], "tokens": 1}) == [3]


def test_it_times(worker: Worker) -> None:
    assert worker.ask({"prefill": 200}) >= 20.0
    assert worker.ask({"decode": 30, "context": 2}) >= 30.0
    assert 0 < worker.ask({"memory": True}) < 2000
    assert worker.cold_start_s > 0


def test_a_worker_that_dies() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        Worker([sys.executable, "-S", "-c", "import sys; sys.stdin.readline(); sys.exit(3)"])


def test_prompts_share_their_first_id_alone() -> None:
    engine = TextEngine(vocab_size=50)
    prompts = [engine.new_prompt(length) for length in (1, 8, 8)]
    assert [len(prompt) for prompt in prompts] == [1, 8, 8]
    assert {prompt[0] for prompt in prompts} == {FIRST}
    assert prompts[1][1] != prompts[2][1]
    assert all(0 <= token < 50 for prompt in prompts for token in prompt)
    again = TextEngine(vocab_size=50)
    assert [again.new_prompt(length) for length in (1, 8, 8)] == prompts  # the same for all engines


def test_a_peers_environment_suffices(repository: Path) -> None:
    """It holds numpy and an engine, nothing of ours."""
    code = "import sys, bench.lib.workers; print(*(name.split('.')[0] for name in sys.modules))"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path += sys.argv[1:]; {code}"]
    site = str(Path(pytest.__file__).parents[1])
    done = subprocess.run(
        [*command, str(repository), site], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__", "__mp_main__"}
    assert loaded == {"bench", "numpy"}
