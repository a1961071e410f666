"""Text to fit int4 weights to: the exact model's own answers, as no other text of its kind is here.

None of the questions is of the exam (`agreement.EXAM`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bench.lib.graph import opened
from bench.lib.graphs import write_graph
from bench.lib.smollm2 import chat
from edge_mm_runtime.decoder import Decoder

TOKENS = 128
TEMPERATURE = 0.8  # greedy answers of a model this small repeat themselves

QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain how a microwave oven heats food.",
    "Write a short poem about the sea.",
    "How do I boil an egg?",
    "What is the difference between a list and a tuple in Python?",
    "Translate 'good morning, my friend' into Spanish and German.",
    "Give me three ideas for a birthday present for my brother.",
    "Summarise the story of Romeo and Juliet in four sentences.",
    "Why is the sky blue?",
    "Write an e-mail to a colleague that moves a meeting to Thursday.",
    "What is 17 times 23? Show your work.",
    "Describe a red bottle that stands to the left of a blue bowl.",
    "Who was Marie Curie?",
    "Write a JSON object with the name, age and city of two people.",
    "How does a bicycle stay upright?",
    "Name the planets of the solar system in order.",
    "Write a shell command that finds all files larger than 100 MB.",
    "What should I pack for a week of hiking in the mountains?",
    "Explain what a neural network is in simple words.",
    "Tell me a joke about computers.",
    "What happened in the year 1969?",
    "How can I sleep better?",
    "Write a function in C that reverses a string.",
    "A robot arm has to pick up a cup without spilling. Which steps does it take?",
)


def own_passages(folder: Path, graph: Path, *, context: int, threads: int) -> list[list[int]]:
    """`write_passages` by the exact graph of a transformers folder, which is left at `graph`."""
    exact = write_graph(folder, "cpu", "fp32", graph, context=context)
    with opened(exact, threads) as decoder:
        return write_passages(decoder, Tokenizer.from_file(str(folder / "tokenizer.json")))


def write_passages(decoder: Decoder, tokenizer: Tokenizer, seed: int = 0) -> list[list[int]]:
    """The ids of each question with an answer that is drawn by chance."""
    rng = np.random.default_rng(seed)
    passages = []
    for question in QUESTIONS:
        ids = tokenizer.encode(chat(question)).ids
        logits = decoder.prefill(ids).logits
        for _ in range(TOKENS):
            noise = rng.gumbel(size=logits.shape)  # the greatest sum is a draw of the softmax
            ids.append(int(np.argmax(logits / TEMPERATURE + noise)))
            logits = decoder.extend(ids[-1:]).logits
        passages.append(ids)
    return passages
