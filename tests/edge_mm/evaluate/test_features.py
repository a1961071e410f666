"""Features of a tiny checkpoint over drawn scenes, and their figures against loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_mm.data.questions.common import clear_ones
from edge_mm.data.scenes import Seen, read_frame, read_scenes, seen_objects
from edge_mm.evaluate import features as f
from edge_mm.evaluate.metrics import measure
from edge_mm.model.checkpoint import save_checkpoint
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import UsageError


@pytest.fixture(scope="module")
def checkpoint(tiny_config, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model = EdgeMM(tiny_config)
    save_checkpoint(folder, model, model.state_dict(), tokenizer, {}, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def scenes(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine scenes, the last three the same as the first."""
    found = json.loads((scene_folder / "scenes.json").read_text())
    for scene in found["scenes"]:
        scene["image"] = str(scene_folder / scene["image"])
    found["scenes"] += [dict(scene, id=f"again {scene['id']}") for scene in found["scenes"][:3]]
    folder = tmp_path_factory.mktemp("nine")
    (folder / "scenes.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def found(checkpoint: Path, scenes: Path) -> f.Features:
    return f.features(checkpoint, scenes)


def thing(number: int, kind: str, color: str, x: float) -> Seen:
    box = (x, 0.4, x + 0.1, 0.5)
    return Seen(number, kind, color, box, (x, 0.4), (x, 0.5), 1.0, 0.1, None)


def test_rows_belong_to_their_pictures(
    found: f.Features, checkpoint: Path, scenes: Path, tokenizer
) -> None:
    model, described = f.load_model(checkpoint), read_scenes(scenes)
    assert len(found.image) == len(found.text) == len(found.captions) == len(described) == 9
    np.testing.assert_allclose(found.image[:3], found.image[6:], atol=1e-5)
    with torch.no_grad():
        for row in (1, 4):  # one alone, not padded beside others
            pixels = torch.from_numpy(model.config.image.apply(read_frame(scenes, described[row])))
            tokens = model.vision(pixels)[0]
            alone = model.image_projection(tokens.mean(1))[0].numpy()
            np.testing.assert_allclose(found.image[row], alone, atol=1e-4)
            text = [1, *tokenizer.encode(found.captions[row]).ids, 2]
            assert [tokenizer.id_to_token(i) for i in (1, 2)] == ["<bos>", "<eos>"]
            embeds = model.lm.get_input_embeddings()(torch.tensor([text]))
            last = model.hidden_states(embeds)[-1][0, -1]
            np.testing.assert_allclose(
                found.text[row], model.text_projection(last).numpy(), atol=1e-4
            )
    clear = [item for scene in described for item in clear_ones(seen_objects(scene))]
    assert len(found.crops) == len(clear) > 9
    assert [
        (COLORS[c], KINDS[k]) for c, k in zip(found.crop_color, found.crop_kind, strict=True)
    ] == [(item.color, item.kind) for item in clear]
    assert found.prompts.shape[:2] == (len(COLORS), len(KINDS))


def test_prompts_are_captions_of_one_thing() -> None:
    assert f.prompt("red", "cup") == "a red cup" and f.prompt("orange", "ball") == "an orange ball"


def test_a_swapped_caption_swaps_two_colours() -> None:
    view = [thing(1, "bowl", "blue", 0.5), thing(2, "cup", "red", 0.1), thing(3, "can", "red", 0.8)]
    assert f.describe(view) == "a red cup, a blue bowl and a red can"
    assert f.swap_colors(view) == "a blue cup, a red bowl and a red can"
    assert f.swap_colors(view[1:]) is None, "the same colour"
    assert f.swap_colors([view[0], thing(2, "bowl", "red", 0.1)]) is None, "the same kind"


def test_a_cut_shows_the_thing_and_its_margin() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[40:60, 90:110] = 255
    item = replace(thing(1, "cup", "red", 0.1), box=(0.45, 0.4, 0.55, 0.6))
    cut = f.cut_out(frame, item)
    assert cut is not None and cut.shape == (28, 28, 3)
    assert (cut > 0).sum() == 20 * 20 * 3
    at_the_edge = f.cut_out(frame, replace(item, box=(0.0, 0.0, 0.1, 0.2)))
    assert at_the_edge is not None and at_the_edge.shape == (24, 24, 3)
    assert f.cut_out(frame, replace(item, box=(0.5, 0.5, 0.52, 0.53))) is None


def test_figures_by_hand(found: f.Features) -> None:
    figures = measure(f.figures_of(found), 9)
    cosines = _unit(found.image) @ _unit(found.text).T
    assert figures["cosine_matched"].value == pytest.approx(np.diag(cosines).mean(), abs=1e-4)
    best = [
        found.captions[row.argmax()] == text
        for row, text in zip(cosines, found.captions, strict=True)
    ]
    assert figures["retrieval_i2t_r1"].value == pytest.approx(np.mean(best), abs=1e-4)
    assert figures["retrieval_t2i_r10"].value == 1.0
    ensembles = _unit(_unit(found.prompts).mean(0))  # over colours
    kinds = (_unit(found.crops) @ ensembles.T).argmax(1)
    assert figures["zero_shot_kind"].value == pytest.approx(
        (kinds == found.crop_kind).mean(), abs=1e-4
    )
    assert figures["zero_shot_kind"].n == figures["zero_shot_color"].n == len(found.crops)
    known = ~np.isnan(found.swapped[:, 0])
    right = np.diag(cosines) > (_unit(found.image) * _unit(found.swapped)).sum(1)
    assert figures["swap_caption"].n == known.sum() > 0
    assert figures["swap_caption"].value == pytest.approx(right[known].mean(), abs=1e-4)
    for name, metric in figures.items():
        assert metric.low <= metric.value + 1e-4 and metric.value <= metric.high + 1e-4, name


def test_perfect_features_are_perfect(found: f.Features) -> None:
    axes = np.eye(9)
    axes[6:] = axes[:3]  # equal pictures, equal captions
    kinds, colors = np.eye(len(KINDS)), np.eye(len(COLORS))
    prompts = np.array([[np.r_[color, kind] for kind in kinds] for color in colors])
    crops = prompts[found.crop_color, found.crop_kind]
    figures = measure(
        f.figures_of(
            replace(found, image=axes, text=axes, swapped=-axes, crops=crops, prompts=prompts)
        ),
        9,
    )
    for name in (
        "retrieval_i2t_r1",
        "retrieval_t2i_r1",
        "ranking_acc",
        "cosine_matched",
        "neighbour_agreement",
        "swap_caption",
        "zero_shot_kind",
        "zero_shot_color",
    ):
        assert figures[name].value == 1.0, name
    assert figures["modality_gap"].value == 0.0


def test_too_few_pictures_are_refused(checkpoint: Path, scenes: Path) -> None:
    with pytest.raises(UsageError, match="has 2 pictures with a caption"):
        f.features(checkpoint, scenes, limit=2)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
