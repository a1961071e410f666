"""Processes that share one model: the curve of one process, resumed by another number of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from edge_mm.model.checkpoint import load_model
from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe
from edge_mm.train.sharded import Sharded, check_resumable
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.train.conftest import (
    CONFIGS,
    launch,
    launcher_environment,
    log_lines,
    processes_of,
)

# Without batch statistics, which every process would have of its own.
TWO_STAGES = [
    "train.average=0",
    "stages=[{name: align, steps: 4, batch_size: 12, parts: [projector, language], warmup: 1, "
    "losses: {sea: 1, language: 1, contrastive: 0.5}}, "
    "{name: read, steps: 2, batch_size: 8, accumulate: 2, parts: [language], warmup: 1, "
    "losses: {language: 1, sea: 1}}]",
]


def test_fsdp_has_the_curve_of_one_process(tmp_path: Path, recipe_file: Path) -> None:
    """Two processes begin, three go on, then two pairs, to the end of the next stage."""
    one, shared = tmp_path / "one", tmp_path / "shared"
    train(load_recipe(recipe_file, TWO_STAGES), one)
    script = str(Path(__file__).with_name("fsdp_on_cpu.py"))
    overrides = [*TWO_STAGES, "train.checkpoint_minutes=0"]
    command = [script, str(recipe_file), "--out", str(shared)]
    command += [part for override in overrides for part in ("--set", override)]
    launch("fsdp.yaml", 2, *command, STOP_AT_STEP="2")
    assert processes_of(shared) == 2 and len(list((shared / "state" / "optimizer").iterdir())) == 2
    launch("fsdp.yaml", 3, *command, "--resume", STOP_AT_STEP="3")
    assert processes_of(shared) == 3 and len(list((shared / "state" / "optimizer").iterdir())) == 3
    pairs = ["--num_machines=1", "--parallelism_config_dp_replicate_size=2"]
    pairs += ["--parallelism_config_dp_shard_size=2"]
    launch("hsdp.yaml", 4, *pairs, *command, "--resume")
    assert processes_of(shared) == 4
    expected, found = log_lines(one), log_lines(shared)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 1, 2]
    for a, b in zip(expected, found, strict=True):
        for name in set(a) - {"stage", "samples_per_s"}:
            # a norm is no mean: Muon's bf16 shows in it
            near = pytest.approx(a[name], abs=1e-3, rel=5e-3 if name == "grad_norm" else 0)
            assert b[name] == near, (a["stage"], a["step"], name)
    model = load_model(shared / "checkpoint").state_dict()
    ours = load_file(str(shared / "state" / "weights.safetensors"))
    for name, tensor in load_file(str(one / "state" / "weights.safetensors")).items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0, msg=name)
        torch.testing.assert_close(model[name], ours[name], atol=1e-6, rtol=0.01, msg=name)


def accelerator(kind: DistributedType, version: int = 2) -> Any:
    return SimpleNamespace(
        distributed_type=kind,
        is_fsdp2=kind == DistributedType.FSDP and version == 2,
        is_main_process=True,
        num_processes=2,
        deepspeed_plugin=SimpleNamespace(deepspeed_config={}),
    )


FSDP, DEEPSPEED = accelerator(DistributedType.FSDP), accelerator(DistributedType.DEEPSPEED)
POLICY = "stages.2={name: p, steps: 1, parts: [language], losses: {policy: 1}}"


@pytest.mark.parametrize(
    ("how", "overrides", "message"),
    [
        (FSDP, ["train.average=0.9"], "set train.average=0"),
        (accelerator(DistributedType.FSDP, 1), [], "fsdp_version: 2"),
        (FSDP, [POLICY], r"policy.*ddp\.yaml"),
        (FSDP, ["train.trace=4"], "set train.trace=0"),
        (DEEPSPEED, [], "set train.muon=false"),
        (DEEPSPEED, ["train.muon=false"], "one stage a launch"),
    ],
)
def test_what_cannot_be_shared_is_said(
    recipe_file: Path, how: Any, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Sharded(how, load_recipe(recipe_file, ["train.average=0", *overrides]))


def test_deepspeed_is_told_the_micro_batch_and_the_clipping(recipe_file: Path) -> None:
    """As far as can be checked without DeepSpeed."""
    one_stage = ["stages.0.steps=0", "stages.1.steps=0", "stages.2.batch_size=24", "train.clip=0.7"]
    recipe = load_recipe(
        recipe_file,
        ["train.average=0", "train.muon=false", "stages.2.accumulate=3", *one_stage],
    )
    Sharded(DEEPSPEED, recipe).before(torch.nn.Linear(2, 2), recipe.stages[2])
    config = DEEPSPEED.deepspeed_plugin.deepspeed_config
    assert config == {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 0.7}


def test_a_run_goes_on_as_it_began(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["train.average=0"])
    sharded = Sharded(FSDP, recipe)
    check_resumable(None, {"a": torch.ones(1)}, None)
    check_resumable(sharded, {}, tmp_path)
    for run, whole, parts in ((sharded, {"a": torch.ones(1)}, None), (None, {}, tmp_path)):
        with pytest.raises(UsageError, match="config that it began with"):
            check_resumable(run, whole, parts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", {"ACCELERATE_MIXED_PRECISION": "no"}),
        ("fsdp", {"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}),
        ("hsdp", {"FSDP_VERSION": "2", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "8"}),
        ("deepspeed_zero2", {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
        (
            "deepspeed_zero3",
            {
                "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
                "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
            },
        ),
    ],
)
def test_the_shipped_configs_are_read_by_the_launcher(name: str, expected: dict[str, str]) -> None:
    found = launcher_environment(CONFIGS / f"{name}.yaml")
    sharded = {"ACCELERATE_USE_FSDP": name.endswith("sdp")}
    sharded["ACCELERATE_USE_DEEPSPEED"] = name.startswith("deepspeed")
    assert {key: found.get(key) == "true" for key in sharded} == sharded
    assert {key: found.get(key) for key in expected} == expected
