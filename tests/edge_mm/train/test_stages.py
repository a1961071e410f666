"""What a stage can ask for: micro-batches, LoRA, preferences, an early end."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
import torch

from edge_mm.data.preferences import rejected
from edge_mm.data.questions import ask
from edge_mm.data.samples import collate
from edge_mm.model.checkpoint import load_model
from edge_mm.train.log import RunLog
from edge_mm.train.loop import Run, TrainingError, start_model, train
from edge_mm.train.losses import Losses, read, reading_weights, segment_log_probs
from edge_mm.train.optimizers import freeze
from edge_mm.train.policy import GROUP, Policy
from edge_mm.train.recipe import Stage, load_recipe
from edge_mm.train.share import Share
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.conftest import imagined_view
from tests.edge_mm.train.conftest import ALIGN, log_lines

PREFER = "stages.2.parts=[language]", "stages.2.losses={preference: 1.0, language: 0.2}"


def test_micro_batches_add_up_to_the_step(tmp_path: Path, recipe_file: Path) -> None:
    curves = []
    for accumulate in (1, 2):
        recipe = load_recipe(
            recipe_file, [*ALIGN, "stages.0.batch_size=4", f"stages.0.accumulate={accumulate}"]
        )
        train(recipe, tmp_path / str(accumulate))
        curves.append(log_lines(tmp_path / str(accumulate)))
    for whole, parts in zip(*curves, strict=True):
        for name in ("sea", "language", "mentions"):
            assert parts[name] == pytest.approx(whole[name], abs=2e-4), name


def test_a_step_is_dealt_out_without_rest() -> None:
    stage = Stage("s", steps=3, parts=(), losses={}, batch_size=8, accumulate=2)
    shares = [list(Share(16, 3, stage, process, 2)) for process in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(16, 40))
    assert shares[0][:4] == [16, 17, 20, 21]  # its first step: two micro-batches of two
    with pytest.raises(UsageError, match="multiple of 6"):
        Share(0, 1, stage, 0, 3)


def test_lora_learns_beside_the_language_model(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file,
        [
            "stages.2.parts=[language]",
            "stages.2.lora={rank: 2}",
            "train.average=0.0",
            "stages.2.learning_rate=0.05",
        ],
    )
    run = Run(recipe, tmp_path, *start_model(recipe))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.run_stage(recipe.stages[2])
    after = run.model.state_dict()
    assert after.keys() == before.keys()  # merged, nothing left behind
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    difference = after[min(changed)] - before[min(changed)]
    assert torch.linalg.matrix_rank(difference, atol=1e-6) <= 2
    saved = load_model(tmp_path / "checkpoint").state_dict()
    torch.testing.assert_close(saved[min(changed)], after[min(changed)], atol=1e-2, rtol=1e-2)


def test_preference_tuning_prefers_the_right_answer(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file,
        [*PREFER, "stages.2.steps=12", "stages.2.learning_rate=0.01", "train.average=0.0"],
    )
    run = Run(recipe, tmp_path, *start_model(recipe))
    samples = run.feed.loader(
        recipe.data.train, recipe.stages[2], Share(0, 1, recipe.stages[2], 0, 1)
    )
    batch = collate([samples.dataset[i] for i in range(6)])
    assert len(batch.pairs) >= 6

    def margin() -> float:
        with torch.no_grad():
            _, _, features = run.model.vision(batch.pixel_values)
            hidden = read(run.model, batch, run.model.projector(features))[-1]
            found = segment_log_probs(run.model, hidden, batch)
        sample, chosen, wrong = batch.pairs.unbind(1)
        return (found[sample, chosen] - found[sample, wrong]).mean().item()

    before = margin()
    run.run_stage(recipe.stages[2])
    assert margin() > before + 0.2
    with pytest.raises(UsageError, match="may be language and regions"):
        load_recipe(recipe_file, ["stages.2.losses={preference: 1.0}"])


def test_a_stopped_stage_goes_on_with_its_reference(tmp_path: Path, recipe_file: Path) -> None:
    """Whose gated blocks have learned in the stage before."""
    parts = "batch_size: 2, learning_rate: 0.02, parts: [language"
    recipe = load_recipe(
        recipe_file,
        [
            "model.fusion={kind: late, every: 1, layers: 1}",
            f"stages=[{{name: learn, steps: 6, {parts}, fusion], losses: {{language: 1}}}}, "
            f"{{name: prefer, steps: 2, {parts}], losses: {{preference: 1}}}}]",
        ],
    )
    run = Run(recipe, tmp_path, *start_model(recipe))
    run.run_stage(recipe.stages[0])
    run._enter(recipe.stages[1])
    run.save()
    again = Run(recipe, tmp_path, *start_model(recipe))
    again.restore()
    assert run.reference is not None and again.reference is not None
    kept = reading_weights(run.reference)
    assert any(name.startswith("fusion.") and tensor.any() for name, tensor in kept.items())
    for name, tensor in reading_weights(again.reference).items():
        torch.testing.assert_close(tensor, kept[name], atol=0, rtol=0, msg=name)


def test_a_policy_step_raises_the_reward(tmp_path: Path, recipe_file: Path) -> None:
    """From a model that has learned the form of the answers; the reward is measured anew."""
    learn = "stages.2.losses={language: 1.0}", "stages.2.steps=60", "stages.2.learning_rate=0.01"
    recipe = load_recipe(recipe_file, [*learn, "train.average=0.0"])
    run = Run(recipe, tmp_path, *start_model(recipe))
    run.run_stage(recipe.stages[2])
    policy = Policy(run.tokenizer, 128)
    samples = run.feed.loader(
        recipe.data.train, recipe.stages[2], Share(0, 1, recipe.stages[2], 0, 1)
    )
    words = [i for i in range(90) if samples.dataset[i]["row"].types[0] == "exist"][:6]
    batch = collate([samples.dataset[i] for i in words])

    def worth() -> torch.Tensor:
        with torch.no_grad():
            tokens, fine, features = run.model.vision(batch.pixel_values)
            keys, boxes, _ = run.model.regions(tokens, fine)
            embeds = run.model.projector(features)
            said = policy.answers(run.model, batch, embeds)
            packed = policy.pack(batch, said)
            hidden = read(run.model, packed, embeds)[-1]
            return policy.rewards(run.model, batch, said, packed, hidden, keys, boxes)

    before = worth()
    assert before.shape == (6, GROUP) and 0 < before.mean() < 1
    module = Losses(run.model, {"policy": 1.0}, run.words, copy.deepcopy(run.model), policy)
    freeze(run.model, Stage("prefer", 1, ("language",), {"policy": 1.0}))
    optimizer = torch.optim.AdamW(run.model.lm.parameters(), lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        module(batch)["policy"].backward()
        optimizer.step()
    assert worth().mean() > before.mean() + 0.05


def test_rejected_answers_are_wrong(view_rng: random.Random) -> None:
    found = set()
    for _ in range(300):
        view = imagined_view(view_rng)
        question = ask(view, view_rng)
        if question and (wrong := rejected(question, view, view_rng)) is not None:
            assert wrong != question.answer
            found.add(question.type)
    assert found >= {"absent", "exist", "count", "color", "locate", "relation", "steps"}


def test_a_stage_ends_when_it_no_longer_gains(tmp_path: Path, recipe_file: Path) -> None:
    folder = load_recipe(recipe_file, []).data.train[0]
    recipe = load_recipe(
        recipe_file,
        [
            *ALIGN,
            "stages.0.steps=50",
            "stages.0.evaluate_every=1",
            "stages.0.patience=2",
            "stages.0.learning_rate=10.0",
            f"data.val=[{folder}]",
        ],
    )
    train(recipe, tmp_path / "run")
    looks = [line["val"] for line in log_lines(tmp_path / "run") if "val" in line]
    best = looks.index(min(looks))
    assert len(looks) < 50 and len(looks) - 1 - best == 2


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_file, ALIGN)
    train(recipe, tmp_path)
    before = (tmp_path / "checkpoint" / "model.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_mm.model.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match=r"No space left.*intact"):
        train(recipe, tmp_path)
    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() == before


def test_scalars_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, tensorboard=True)
    log.line({"stage": "align", "step": 3, "language": 0.5}, samples=96)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (scalar,) = events.Scalars("align/language")
    assert (scalar.step, scalar.value) == (96, 0.5)
    assert json.loads((tmp_path / "log.jsonl").read_text())["language"] == 0.5
