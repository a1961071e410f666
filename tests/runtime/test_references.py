"""References: what is read of them, and what a decoder is seen to read and say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_mm_runtime.bundle import load_bundle, write_manifest
from edge_mm_runtime.decoder import Decoder
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.references import Recorder, read_gate, read_references
from edge_mm_runtime.session import Session, default_target, open_graph

REFERENCE: dict[str, Any] = {
    "picture": "00.png",
    "question": "find the red cup",
    "type": "locate",
    "mode": "locate",
    "text": "red cup",
    "found": True,
    "objects": [
        {"label": "red cup", "box_xyxy": [1, 2, 3, 4], "point_xy": None, "confidence": 0.5}
    ],
    "top_ids": [7, 3],
    "top_logits": [2.5, 1.0],
    "ids": [7, 8],
}


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def store(folder: Path, text: str, **fields: Any) -> None:
    """Write references.json as it is told, and list it."""
    (folder / "references").mkdir(exist_ok=True)
    (folder / "references" / "references.json").write_text(text)
    write_manifest(folder, msgspec.structs.replace(load_bundle(folder, "size").manifest, **fields))


def test_references_are_read(folder: Path) -> None:
    assert read_references(load_bundle(folder)) is None
    store(folder, json.dumps({"max_new_tokens": 9, "questions": [REFERENCE]}))
    references = read_references(load_bundle(folder))
    assert references is not None
    [question] = references.questions
    assert (references.max_new_tokens, question.top_ids) == (9, (7, 3))
    assert question.objects[0].box_xyxy == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ('{"max_new_tokens": 9, "questions": []}', "has no question"),
        (json.dumps({"max_new_tokens": 9, "questions": [{"picture": "x"}]}), "is damaged: .*mis"),
        (
            json.dumps({"max_new_tokens": 9, "questions": [{**REFERENCE, "top_ids": [7]}]}),
            "1 top_ids and 2 top_logits",
        ),
        (
            json.dumps({"max_new_tokens": 9, "questions": [{**REFERENCE, "top_ids": [7, 448]}]}),
            "names id 448, the decoder of .*bundle.json knows 448",
        ),
    ],
)
def test_references_of_no_use_are_named(folder: Path, text: str, message: str) -> None:
    store(folder, text)
    with pytest.raises(BundleError, match=rf"references.json.*{message}.*export the bundle again"):
        read_references(load_bundle(folder))


def test_a_gate_is_read_or_named(folder: Path) -> None:
    store(folder, "{}", verification={"gate": {"mean_iou": 0.5}})
    assert read_gate(load_bundle(folder)).mean_iou == 0.5
    for verification in ({}, {"gate": {"mean_iou": "high"}}):
        store(folder, "{}", verification=verification)
        with pytest.raises(BundleError, match=r"bundle.json has no gate"):
            read_gate(load_bundle(folder))


def test_a_recorder_sees_what_the_decoder_reads_and_says(
    tiny_bundle: Path, tokenizer: Tokenizer
) -> None:
    bundle = load_bundle(tiny_bundle)
    recorder = Recorder(open_graph(bundle, "decoder", "cpu", 1))
    frame = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    with Session(bundle, 1, decoder=recorder) as session:
        session.ask(frame, "find the blue bowl", mode="caption", max_new_tokens=5)
        recorder.passes.clear()
        text = session.ask(frame, "find the red cup", mode="caption", max_new_tokens=5).text
    (first, logits), *later = recorder.passes
    # of the second question the cache knew the picture and "find the"
    shared = tokenizer.encode("<user>find the ", add_special_tokens=False).ids
    prompt = tokenizer.encode("<user>find the red cup<assistant>", add_special_tokens=False).ids
    assert 1 < len(first) <= len(prompt) - len(shared) + 1
    assert first == prompt[-len(first) :]
    spoken = [token for ids, _ in later for token in ids]
    assert 1 <= len(spoken) <= 5
    assert text.startswith(tokenizer.decode(spoken[:1]).strip())
    with open_graph(bundle, "decoder", "cpu", 1) as runner:
        fresh = Decoder(runner, bundle.manifest.decoder)
        with open_graph(bundle, "vision", "cpu", 1) as vision:
            pixel_values = bundle.manifest.image.apply(frame)
            fresh.set_image(vision.run({"pixel_values": pixel_values})["image_embeds"][0])
        rows = bundle.manifest.prompt.image_token_count
        image = list(range(448, 448 + rows))
        start = tokenizer.token_to_id("<bos>")
        expected = fresh.prefill([start, *image, *prompt]).logits
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_the_target_is_cpu_or_the_first(folder: Path) -> None:
    bundle = load_bundle(folder)
    graphs = bundle.manifest.graphs["cpu"]
    for targets, chosen in ((["cuda", "cpu"], "cpu"), (["tensorrt", "cuda"], "tensorrt")):
        write_manifest(
            folder,
            msgspec.structs.replace(bundle.manifest, graphs=dict.fromkeys(targets, graphs)),
        )
        assert default_target(load_bundle(folder)) == chosen
    with pytest.raises(BundleError, match="no graphs for target 'cpu', it has: cuda, tensorrt"):
        Session(folder, target="cpu")
