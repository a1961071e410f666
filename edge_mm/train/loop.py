"""The training loop: stages in order, one forward pass of packed samples a step.

Weights live in fp32 (the frozen backbone in bf16), the forward pass runs in bf16 autocast where the
recipe says so. What is saved as the checkpoint is the running average of the weights; `state/`
beside it holds all that a resumed run needs. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edge_mm.data.samples import Batch, SceneSamples, collate
from edge_mm.model.checkpoint import (
    load_backbone,
    load_model,
    replace_folder,
    save_checkpoint,
)
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.tokenizer import learn_tokenizer, load_tokenizer
from edge_mm.train.losses import Words, compute_losses
from edge_mm.train.recipe import Recipe, Stage
from edge_mm_runtime.errors import EdgeMMError

TOP = 8  # the eye's blocks from here on see at strides 16 and 32: the part `backbone_top`
MUON_RATE = 2.0  # times AdamW's learning rate, once its update has the same size
WORTH_COMPILING = 1000  # steps: a shorter stage would spend its time in the compiler


class TrainingError(EdgeMMError):
    """The run cannot go on; the last checkpoint is intact."""


def train(recipe: Recipe, out: Path, resume: bool = False) -> Path:
    """Run a recipe; returns the folder of the checkpoint, `out/checkpoint`."""
    torch.manual_seed(recipe.train.seed)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = start_model(recipe)
    run = Run(recipe, out, model, tokenizer)
    if resume:
        run.restore()
    while run.stage_index < len(recipe.stages):
        run.run_stage(recipe.stages[run.stage_index])
    run.save()
    return out / "checkpoint"


def start_model(recipe: Recipe) -> tuple[EdgeMM, Tokenizer]:
    """A checkpoint's model, or a new one with a pretrained backbone and a fresh tokenizer."""
    if recipe.model.init:
        return load_model(Path(recipe.model.init)), load_tokenizer(Path(recipe.model.init))
    config = ModelConfig(
        name=recipe.model.name, vision=recipe.model.vision, language=recipe.model.language
    )
    model = EdgeMM(config)
    if recipe.model.backbone:
        load_backbone(model, Path(recipe.model.backbone))
    return model, learn_tokenizer(config.language.vocab_size, config.grounding.bins)


def parts(model: EdgeMM) -> dict[str, list[nn.Parameter]]:
    """The model's parameters by the names that recipes use."""
    vision, backbone = model.vision, model.vision.backbone
    eye = {id(parameter) for parameter in backbone.parameters()}
    return {
        "backbone": [*backbone.stem.parameters(), *backbone.blocks[:TOP].parameters()],
        "backbone_top": list(backbone.blocks[TOP:].parameters()),
        "vision": [p for p in vision.parameters() if id(p) not in eye]
        + list(model.image_projection.parameters()),
        "projector": list(model.projector.parameters()),
        "regions": [
            *model.regions.parameters(),
            *model.region_query.parameters(),
            *model.mention_query.parameters(),
            *model.subject_query.parameters(),
        ],
        "language": [
            *model.lm.parameters(),
            *model.text_projection.parameters(),
            model.log_temperature,
        ],
    }


def transformer_matrices(model: EdgeMM) -> set[int]:
    """ids of the weights inside the transformers' layers: what Muon is made for."""
    layers = (model.vision.encoder, model.lm.model.layers)
    return {id(p) for module in layers for p in module.parameters() if p.dim() == 2}


def rate(stage: Stage, step: int) -> float:
    """Warm-up, plateau, decay: the factor on the learning rate at a step."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    left = stage.steps - step
    if left < stage.decay:
        return max(0.01, 0.5 - 0.5 * math.cos(math.pi * left / stage.decay))
    return 1.0


class Run:
    """A run in progress: model, average, optimiser, and where in the recipe it stands."""

    def __init__(self, recipe: Recipe, out: Path, model: EdgeMM, tokenizer: Tokenizer):
        self.recipe, self.out, self.model, self.tokenizer = recipe, out, model, tokenizer
        self.stage_index, self.step, self.samples_seen = 0, 0, 0
        self.words = Words(tokenizer)
        self.average = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        self.optimizer_state: dict[str, Tensor] = {}

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if name != "lm.lm_head.weight"
        }

    def run_stage(self, stage: Stage) -> None:
        """All steps of a stage, from wherever the run stands in it."""
        last = min(stage.steps, self.recipe.train.max_steps or stage.steps)
        if self.recipe.train.compile and last >= WORTH_COMPILING:
            self.model.lm.model.compile(dynamic=True)
        optimizers = self._optimizers(stage)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        factors = [group["lr"] for group in groups]
        trained = [p for group in groups for p in group["params"]]
        window: list[dict[str, float]] = []
        began, saved = time.monotonic(), time.monotonic()
        for batch in self._batches(stage, last - self.step):
            for group, factor in zip(groups, factors, strict=True):
                group["lr"] = factor * rate(stage, self.step)
            self.model.zero_grad(set_to_none=True)
            window.append(self._backward(stage, batch))
            torch.nn.utils.clip_grad_norm_(trained, self.recipe.train.clip)
            for optimizer in optimizers:
                optimizer.step()
            self._update_average()
            self.step += 1
            self.samples_seen += stage.batch_size
            if self.step % self.recipe.train.log_every == 0 or self.step == last:
                self._log(stage, window, time.monotonic() - began)
                window, began = [], time.monotonic()
            if time.monotonic() - saved > 60 * self.recipe.train.checkpoint_minutes:
                self._keep_optimizers(optimizers)
                self.save()
                saved = time.monotonic()
        self.stage_index, self.step, self.optimizer_state = self.stage_index + 1, 0, {}
        self.save()

    def _backward(self, stage: Stage, batch: Batch) -> dict[str, float]:
        """Gradients of the weighted losses of a batch; returns each loss."""
        bf16 = self.recipe.train.precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = compute_losses(self.model, batch, stage.losses, self.words)
        weighted = [weight * losses[name] for name, weight in stage.losses.items()]
        total = torch.stack(weighted).sum()
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {total.item()} at step {self.step} of stage {stage.name}; the last "
                f"checkpoint is whole: lower learning_rate, then --resume"
            )
        total.backward()
        return {name: losses[name].item() for name in stage.losses}

    def _optimizers(self, stage: Stage) -> list[torch.optim.Optimizer]:
        """AdamW for the parts that learn, and Muon for the transformers' matrices if asked for."""
        by_part = parts(self.model)
        matrices = transformer_matrices(self.model) if self.recipe.train.muon else set()
        self.model.train()
        adamw, muon = [], []
        for name, parameters in by_part.items():
            learns = name in stage.parts
            for parameter in parameters:
                parameter.requires_grad_(learns)
            if learns:
                rate_of_part = stage.learning_rate * stage.part_rates.get(name, 1.0)
                decay = self.recipe.train.weight_decay
                rest = [p for p in parameters if id(p) not in matrices]
                for groups, chosen, lr, weight_decay in (
                    (muon, [p for p in parameters if id(p) in matrices], MUON_RATE, decay),
                    (adamw, [p for p in rest if p.dim() in (2, 4)], 1.0, decay),
                    (adamw, [p for p in rest if p.dim() not in (2, 4)], 1.0, 0.0),
                ):
                    if chosen:
                        groups.append(
                            {
                                "params": chosen,
                                "lr": lr * rate_of_part,
                                "weight_decay": weight_decay,
                            }
                        )
        for module in (self.model.vision.backbone.stem, *self.model.vision.backbone.blocks):
            frozen = not next(module.parameters()).requires_grad
            bf16 = frozen and self.recipe.train.precision == "bf16"
            module.to(torch.bfloat16 if bf16 else torch.float32)
        self.model.to(memory_format=torch.channels_last)
        optimizers: list[torch.optim.Optimizer] = []
        if adamw:
            optimizers.append(torch.optim.AdamW(adamw, betas=(0.9, 0.98), fused=True))
        if muon:
            optimizers.append(torch.optim.Muon(muon, adjust_lr_fn="match_rms_adamw"))
        self._restore_optimizers(optimizers)
        return optimizers

    def _batches(self, stage: Stage, steps: int) -> Iterator[Batch]:
        data = self.recipe.data
        samples = SceneSamples(
            [Path(folder) for folder in data.train],
            self.model.config,
            self.tokenizer,
            data.questions,
            data.max_tokens,
            self.recipe.train.seed,
        )
        first = self.samples_seen
        loader = DataLoader(
            samples,
            batch_size=stage.batch_size,
            collate_fn=collate,
            sampler=range(first, first + steps * stage.batch_size),
            num_workers=data.workers,
            multiprocessing_context="fork" if data.workers else None,
            prefetch_factor=4 if data.workers else None,
        )
        yield from loader

    def _update_average(self) -> None:
        keep = min(self.recipe.train.average, (1 + self.step) / (10 + self.step))
        ours, theirs = [], []
        for name, tensor in self._weights().items():
            if name.startswith("vision.backbone") and tensor.dtype == torch.bfloat16:
                continue  # frozen
            if tensor.is_floating_point():
                ours.append(self.average[name])
                theirs.append(tensor.detach())
            else:
                self.average[name].copy_(tensor)
        torch._foreach_lerp_(ours, theirs, 1 - keep)

    def _log(self, stage: Stage, window: list[dict[str, float]], seconds: float) -> None:
        means = {name: sum(step[name] for step in window) / len(window) for name in stage.losses}
        line = {
            "stage": stage.name,
            "step": self.step,
            "samples": self.samples_seen,
            "samples_per_s": round(len(window) * stage.batch_size / seconds, 1),
            "rate": round(rate(stage, self.step - 1), 4),
            **{name: round(value, 4) for name, value in means.items()},
        }
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(" ".join(f"{name}={value}" for name, value in line.items()), flush=True)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.model.named_parameters()}

    def _keep_optimizers(self, optimizers: list[torch.optim.Optimizer]) -> None:
        names = self._names()
        self.optimizer_state = {
            f"{names[id(parameter)]}|{key}": value
            for optimizer in optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def _restore_optimizers(self, optimizers: list[torch.optim.Optimizer]) -> None:
        owner = {
            id(parameter): optimizer
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        by_name = dict(self.model.named_parameters())
        for name_and_key, saved in self.optimizer_state.items():
            name, key = name_and_key.split("|")
            if id(by_name[name]) in owner:
                owner[id(by_name[name])].state[by_name[name]][key] = saved

    def save(self) -> None:
        """The checkpoint to use (average, bf16), then the state to resume from (fp32)."""
        recipe = yaml.safe_dump(msgspec.to_builtins(self.recipe), sort_keys=False)
        save_checkpoint(
            self.out / "checkpoint",
            self.model,
            self.average,
            self.tokenizer,
            {"recipe.yaml": recipe},
        )
        state, temporary = self.out / "state", self.out / "state.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, tensors in (
            ("weights", self._weights()),
            ("average", self.average),
            ("optimizer", self.optimizer_state),
        ):
            save_file(
                {key: value.contiguous().clone() for key, value in tensors.items()},
                str(temporary / f"{name}.safetensors"),
            )
        (temporary / "progress.json").write_text(
            json.dumps({"stage": self.stage_index, "step": self.step, "samples": self.samples_seen})
        )
        replace_folder(state, temporary)

    def restore(self) -> None:
        """Go on from `out/state`."""
        state = self.out / "state"
        if not (state / "progress.json").is_file():
            raise TrainingError(f"nothing to resume: {state} holds no saved run")
        self.tokenizer = load_tokenizer(self.out / "checkpoint")
        self.words = Words(self.tokenizer)
        progress = json.loads((state / "progress.json").read_text())
        self.stage_index, self.step = progress["stage"], progress["step"]
        self.samples_seen = progress["samples"]
        weights = load_file(str(state / "weights.safetensors"))
        self.model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, strict=False
        )
        self.average = load_file(str(state / "average.safetensors"))
        self.optimizer_state = load_file(str(state / "optimizer.safetensors"))
