"""Whether a decoder graph says what transformers says: greedy tokens, and their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from bench.lib.graph import Graph, opened
from edge_mm_runtime.agreement import cosine

TOKENS = 64
EXAM = (
    "Why does a robot need to know how far away a cup is? Explain it to a child.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "List five things that you would find on a kitchen table and say what each is for.",
)


class Said(NamedTuple):
    """A prompt and its greedy continuation."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logits: npt.NDArray[np.float32]  # [len(ids), V], that chose each of ids


class Agreement(NamedTuple):
    """A graph beside transformers over all prompts."""

    tokens: int
    greedy: int  # tokens that it says itself before its first other one, summed over prompts
    same: int  # tokens that it would choose after the same text
    cosine: float  # of logits after the same text: mean and least
    least_cosine: float


@torch.no_grad()
def continue_greedily(lm: PreTrainedModel, prompt: Sequence[int], count: int = TOKENS) -> Said:
    """By transformers with its own cache; an end of text does not end it."""
    cache, new = None, list(prompt)
    ids, logits = list[int](), list[npt.NDArray[np.float32]]()
    for _ in range(count):
        out = lm(input_ids=torch.tensor([new]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits[0, -1].float().numpy())
        new = [int(logits[-1].argmax())]
        ids += new
    return Said(tuple(prompt), tuple(ids), np.stack(logits))


def compare(graph: Graph, references: Sequence[Said], threads: int = 2) -> Agreement:
    """Let the runtime's decoder read each prompt with transformers' words, one after the other."""
    same, cosines = [], []
    with opened(graph, threads) as decoder:
        for said in references:
            found = [decoder.prefill(said.prompt).logits]
            found += [decoder.extend([token]).logits for token in said.ids[:-1]]
            same.append([int(row.argmax()) for row in found] == np.array(said.ids))
            cosines += [cosine(a, b) for a, b in zip(found, said.logits, strict=True)]
    return Agreement(
        tokens=sum(len(said.ids) for said in references),
        greedy=sum(int(np.argmin([*row, False])) for row in same),
        same=int(np.sum(same)),
        cosine=float(np.mean(cosines)),
        least_cosine=min(cosines),
    )
