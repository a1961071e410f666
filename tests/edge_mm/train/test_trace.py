"""Looks at a model: what they say, that they leave no trace in it, and their files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from edge_mm.data.scenes import read_frame, read_scenes, seen_objects
from edge_mm.evaluate.features import caption_features, describe, image_features
from edge_mm.model.config import ModelConfig, ProjectorConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe
from edge_mm.train.trace import Look, Probe, Trace, read_trace
from edge_mm.words import KINDS
from edge_mm_runtime.errors import UsageError


@pytest.fixture(scope="module")
def probe(scene_folder: Path, tiny_config: ModelConfig, tokenizer: Tokenizer) -> Probe:
    return Probe([scene_folder], tiny_config, tokenizer, pictures=5)


def test_features_are_those_of_the_evaluation(
    probe: Probe, tiny_model: EdgeMM, scene_folder: Path, tokenizer: Tokenizer
) -> None:
    look = probe.look(tiny_model, "align", 7, 70)
    assert (look.stage, look.step, look.samples) == ("align", 7, 70)
    described = {describe(seen_objects(scene)): scene for scene in read_scenes(scene_folder)}
    captions = probe.subjects.captions
    assert len(set(captions)) == len(captions) == len(probe.thumbnails) >= 2
    frames = [read_frame(scene_folder, described[caption]) for caption in captions]
    np.testing.assert_allclose(look.image, image_features(tiny_model, frames), atol=1e-5)
    wanted = caption_features(tiny_model, tokenizer, captions)
    np.testing.assert_allclose(look.text, wanted, atol=1e-5)


@torch.no_grad()
def test_the_nearest_word_of_each_token(
    probe: Probe, tiny_model: EdgeMM, scene_folder: Path, tokenizer: Tokenizer
) -> None:
    look, table = probe.look(tiny_model, "", 0, 0), tiny_model.lm.get_input_embeddings().weight
    described = {describe(seen_objects(scene)): scene for scene in read_scenes(scene_folder)}
    words = [table[tokenizer.encode(f" {kind}").ids].mean(0) for kind in KINDS]
    for row, picture in enumerate(probe.subjects.mapped):
        scene = described[probe.subjects.captions[picture]]
        pixels = torch.from_numpy(tiny_model.config.image.apply(read_frame(scene_folder, scene)))
        tokens = tiny_model.projector(tiny_model.vision(pixels)[2])[0]
        for token in (0, 37, 99):
            cosines = [torch.cosine_similarity(tokens[token], word, dim=0).item() for word in words]
            assert look.word[row, token] == np.argmax(cosines)
            assert look.cosine[row, token] == pytest.approx(max(cosines), abs=1e-5)


def test_what_tokens_show(probe: Probe, scene_folder: Path) -> None:
    """A token shows the kind whose box holds its centre, where only one does."""
    described = {describe(seen_objects(scene)): scene for scene in read_scenes(scene_folder)}
    compared = 0
    for picture, shown in zip(probe.subjects.mapped, probe.subjects.shown, strict=True):
        view = seen_objects(described[probe.subjects.captions[picture]])
        for token, kind in enumerate(shown):
            x, y = (token % 10 + 0.5) / 10, (token // 10 + 0.5) / 10
            on = {o.kind for o in view if o.box[0] < x < o.box[2] and o.box[1] < y < o.box[3]}
            if len(on) == 1 and kind >= 0:
                assert KINDS[kind] in on
                compared += 1
    assert compared > 10


def test_a_look_leaves_the_model_as_it_was(probe: Probe, tiny_model: EdgeMM) -> None:
    tiny_model.train()
    tiny_model.vision.backbone.eval()
    modes = [module.training for module in tiny_model.modules()]
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    torch.manual_seed(4)
    drawn = torch.rand(1)
    torch.manual_seed(4)
    probe.look(tiny_model, "", 0, 0)
    assert torch.rand(1) == drawn
    assert [module.training for module in tiny_model.modules()] == modes
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_with_a_backbone_in_bf16(probe: Probe, tiny_model: EdgeMM) -> None:
    whole = probe.look(tiny_model, "", 0, 0)
    tiny_model.vision.backbone.to(torch.bfloat16)
    half = probe.look(tiny_model, "", 0, 0)
    assert half.image.dtype == np.float32
    for a, b in ((whole.image, half.image), (whole.text, half.text)):
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert (cosine > 0.98).all()


def test_tokens_without_places_have_no_map(
    scene_folder: Path, tiny_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    projector = ProjectorConfig(kind="qformer", layers=1, queries=6, heads=2)
    config = msgspec.structs.replace(tiny_config, projector=projector)
    probe = Probe([scene_folder], config, tokenizer)
    assert probe.subjects.grid is None and probe.subjects.mapped == ()
    assert probe.look(EdgeMM(config), "", 0, 0).word.shape == (0, 6)


def test_when_to_look(probe: Probe, tmp_path: Path) -> None:
    trace = Trace(tmp_path, probe, per_stage=4)
    assert [step for step in range(1, 11) if trace.due(step, 10)] == [3, 6, 9, 10]
    assert [step for step in range(1, 3) if trace.due(step, 2)] == [1, 2]


def same(a: Look, b: Look) -> bool:
    return all(np.array_equal(getattr(a, name), value) for name, value in vars(b).items())


def test_files_of_a_run_that_stops_and_goes_on(
    probe: Probe, tiny_model: EdgeMM, tmp_path: Path
) -> None:
    trace = Trace(tmp_path, probe, 4)
    for step in (0, 5, 10):
        trace.record(tiny_model, "contrastive", step, 8 * step)
    subjects, frames, looks = read_trace(tmp_path / "trace")
    assert subjects == probe.subjects
    assert [frame.shape for frame in frames] == [frame.shape for frame in probe.thumbnails]
    assert [look.samples for look in looks] == [0, 40, 80]
    assert same(looks[1], probe.look(tiny_model, "contrastive", 5, 40))

    Trace(tmp_path, probe, 4).record(tiny_model, "contrastive", 5, 40)  # resumed before step 10
    assert [look.samples for look in read_trace(tmp_path / "trace")[2]] == [0, 40]
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_pictures_are_another_trace(
    probe: Probe, tiny_model: EdgeMM, tiny_config: ModelConfig, tokenizer: Tokenizer,
    scene_folder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    Trace(tmp_path, probe, 4).record(tiny_model, "a", 0, 0)
    fewer = Probe([scene_folder], tiny_config, tokenizer, pictures=2)
    Trace(tmp_path, fewer, 4)
    with pytest.raises(UsageError, match="no looks yet"):
        read_trace(tmp_path / "trace")
    assert len(list((tmp_path / "trace" / "pictures").iterdir())) == 2


def test_damage_is_told(probe: Probe, tmp_path: Path) -> None:
    Trace(tmp_path, probe, 4)
    look = tmp_path / "trace" / "000000008.npz"
    look.write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match=r"000000008\.npz cannot be read"):
        read_trace(tmp_path / "trace")
    np.savez(look, stage=np.array([{}], object))  # a pickle
    with pytest.raises(UsageError, match="allow_pickle=False"):
        read_trace(tmp_path / "trace")
    (tmp_path / "trace" / "samples.json").write_text("{}")
    with pytest.raises(UsageError, match=r"samples\.json cannot be read"):
        read_trace(tmp_path / "trace")


def test_one_caption_is_too_few(
    scene_folder: Path, tiny_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UsageError, match="1 pictures with captions that differ"):
        Probe([scene_folder], tiny_config, tokenizer, pictures=1)


def test_a_run_leaves_its_trace(tmp_path: Path, recipe_file: Path) -> None:
    train(load_recipe(recipe_file, ["train.trace=6"]), tmp_path)
    _, _, looks = read_trace(tmp_path / "trace")
    steps = [(look.stage, look.step) for look in looks]
    assert steps == [
        *(("contrastive", step) for step in (0, 1, 2)),
        *(("align", step) for step in (1, 2)),
        *(("instruct", step) for step in (2, 4)),
    ]
