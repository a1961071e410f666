"""Training: every stage runs, learns, stops clearly, and goes on as if it had not stopped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edge_mm.model.checkpoint import load_model
from edge_mm.train import optimizers as optimizers_module
from edge_mm.train import precision as precision_module
from edge_mm.train.loop import Run, TrainingError, start_model, train
from edge_mm.train.optimizers import TOP, Muon, rate
from edge_mm.train.recipe import Stage, load_recipe
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.train.conftest import log_lines


def test_all_stages_and_the_same_weights_after_a_stop(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [])
    whole = train(recipe, tmp_path / "whole")
    stages = [line["stage"] for line in log_lines(tmp_path / "whole")]
    assert stages == ["contrastive"] * 2 + ["align"] * 2 + ["instruct"] * 4

    torch.manual_seed(recipe.train.seed)
    stopped = Run(recipe, tmp_path / "stopped", *start_model(recipe))
    (tmp_path / "stopped").mkdir()
    stopped.run_stage(recipe.stages[0])  # saves, and here the power goes
    resumed = train(recipe, tmp_path / "stopped", resume=True)
    one, two = load_model(whole).state_dict(), load_model(resumed).state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0, msg=name)


def changed_parameters(tmp_path: Path, recipe_file: Path, *overrides: str) -> set[str]:
    """Names of the parameters that the align stage changes."""
    recipe = load_recipe(recipe_file, ["train.average=0.0", *overrides])
    (tmp_path / "run").mkdir()
    run = Run(recipe, tmp_path / "run", *start_model(recipe))
    before = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
    run.run_stage(recipe.stages[1])
    return {
        name
        for name, tensor in run.model.named_parameters()
        if not torch.equal(tensor, before[name])
    }


def test_only_the_parts_of_a_stage_learn(tmp_path: Path, recipe_file: Path) -> None:
    changed = changed_parameters(tmp_path, recipe_file)
    assert {name.split(".")[0] for name in changed} == {"projector"}


def test_the_top_of_the_eye_learns_alone(tmp_path: Path, recipe_file: Path) -> None:
    changed = changed_parameters(tmp_path, recipe_file, "stages.1.parts=[backbone_top]")
    blocks = {int(name.split(".")[3]) for name in changed if name.startswith("vision.backbone")}
    assert blocks == set(range(TOP, 16)) and len(changed) == 6 * len(blocks)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [])
    model, tokenizer = start_model(recipe)
    with torch.no_grad():
        model.projector.layers[0].weight.fill_(float("nan"))
    run = Run(recipe, tmp_path, model, tokenizer)
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        run.run_stage(recipe.stages[2])
    assert not (tmp_path / "checkpoint").exists()


def test_bf16_is_for_processors_that_multiply_it(
    tmp_path: Path,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On others the same recipe trains in fp32, and says so."""
    only_align = ["stages.0.steps=0", "stages.2.steps=0"]
    trained: list[torch.Tensor] = []
    for has_bf16, precision in ((True, "bf16"), (False, "bf16"), (True, "fp32")):
        monkeypatch.setattr(precision_module, "has_bf16", lambda device, there=has_bf16: there)
        out = tmp_path / f"{has_bf16}-{precision}"
        train(load_recipe(recipe_file, [*only_align, f"train.precision={precision}"]), out)
        weights = load_file(out / "state" / "weights.safetensors")
        trained.append(weights["projector.layers.0.weight"])
        assert ("in fp32" in capsys.readouterr().err) == (not has_bf16)
    bf16, fallen_back, fp32 = trained
    assert torch.equal(fallen_back, fp32) and not torch.equal(bf16, fp32)


@pytest.mark.parametrize(("has_bf16", "precise"), [(True, False), (False, True)])
def test_muon_is_in_fp32_where_bf16_is_not_multiplied(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precise: bool
) -> None:
    """Beside the iteration in fp64 with the published coefficients (Keller Jordan's Muon)."""
    monkeypatch.setattr(optimizers_module, "has_bf16", lambda _: has_bf16)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(24, 16, generator=generator))
    matrix.grad, before = torch.randn(24, 16, generator=generator), matrix.detach().clone()
    optimizer = Muon([{"params": [matrix], "lr": 0.1, "weight_decay": 0.0}], momentum=0.0)
    optimizer.step()
    x = matrix.grad.double().T
    x /= x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    expected = before - 0.1 * (24 / 16) ** 0.5 * x.T
    assert torch.allclose(matrix.double(), expected, atol=1e-6) == precise
    torch.testing.assert_close(matrix.double(), expected, atol=1e-2, rtol=0)


def test_recipes_are_read_strictly(tmp_path: Path, recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["stages.0.steps=7"]).stages[0].steps == 7
    for override, message in (
        ("train.sed=3", "did you mean 'seed'"),
        ("nothing", "name=value"),
        ("stages.9.steps=1", "0..2"),
        ("stages.0.losses={wish: 1}", "unknown loss 'wish'"),
    ):
        with pytest.raises(UsageError, match=message):
            load_recipe(recipe_file, [override])
    with pytest.raises(UsageError, match="no recipe"):
        load_recipe(tmp_path / "none.yaml", [])


def test_the_rate_rises_stays_and_falls() -> None:
    stage = Stage("s", steps=100, parts=("vision",), losses={"boxes": 1.0}, warmup=10, decay=20)
    rates = [rate(stage, step) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:80] == [1.0] * 70 and rates[-1] < 0.02
    assert all(a >= b for a, b in pairwise(rates[80:]))
