"""The training loop: stages in order, one forward pass of packed samples a step.

Weights live in fp32 (the frozen backbone in bf16), the forward pass runs in bf16 autocast where the
recipe says so. What is saved as the checkpoint is the running average of the weights; `state/`
beside it holds all that a resumed run needs. Under `accelerate launch` every process takes its
share of each step, and the curve is the one of a single process.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader

from edge_mm.data.samples import Batch, SceneSamples, collate
from edge_mm.model.checkpoint import load_backbone, load_model, save_checkpoint
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.tokenizer import learn_tokenizer, load_tokenizer
from edge_mm.train.distributed import total
from edge_mm.train.log import RunLog
from edge_mm.train.lora import add_lora, has_lora, merge_lora, merged
from edge_mm.train.losses import Losses, Words, counts, sea_grid
from edge_mm.train.optimizers import freeze, optimizers, rate
from edge_mm.train.recipe import Lora, Recipe, Stage
from edge_mm.train.share import Share
from edge_mm.train.state import keep_optimizers, load_state, restore_optimizers, save_state
from edge_mm_runtime.errors import EdgeMMError

WORTH_COMPILING = 1000  # steps: a shorter stage would spend its time in the compiler
LOOK = 8  # micro-batches of data.val in one look


class TrainingError(EdgeMMError):
    """The run cannot go on; the last checkpoint is intact."""


def train(recipe: Recipe, out: Path, resume: bool = False) -> Path:
    """Run a recipe; returns the folder of the checkpoint, `out/checkpoint`."""
    torch.manual_seed(recipe.train.seed)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = start_model(recipe)
    if any("sea" in stage.losses for stage in recipe.stages if stage.steps):
        sea_grid(model)
    run = Run(recipe, out, model, tokenizer)
    if resume:
        run.restore()
    while run.stage_index < len(recipe.stages):
        run.run_stage(recipe.stages[run.stage_index])
    run.save()
    run.log.close()
    return out / "checkpoint"


def start_model(recipe: Recipe) -> tuple[EdgeMM, Tokenizer]:
    """A checkpoint's model, or a new one with a pretrained backbone and a fresh tokenizer."""
    if recipe.model.init:
        return load_model(Path(recipe.model.init)), load_tokenizer(Path(recipe.model.init))
    config = ModelConfig(
        name=recipe.model.name,
        vision=recipe.model.vision,
        projector=recipe.model.projector,
        language=recipe.model.language,
    )
    model = EdgeMM(config)
    if recipe.model.backbone:
        load_backbone(model, Path(recipe.model.backbone))
    return model, learn_tokenizer(config.language.vocab_size, config.grounding.bins)


class Run:
    """A run in progress: model, average, optimiser, and where in the recipe it stands."""

    def __init__(self, recipe: Recipe, out: Path, model: EdgeMM, tokenizer: Tokenizer):
        self.recipe, self.out, self.model, self.tokenizer = recipe, out, model, tokenizer
        self.accelerator = Accelerator(
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
        self.first = self.accelerator.is_main_process
        self.log = RunLog(out if self.first else None, recipe.train.tensorboard)
        self.stage_index, self.step, self.samples_seen = 0, 0, 0
        self.best, self.looks_since_best = float("inf"), 0
        self.words = Words(tokenizer)
        self.reference: EdgeMM | None = None
        self.optimizer_state: dict[str, Tensor] = {}
        self.model.to(self.accelerator.device)
        self.average = {name: tensor.detach().clone() for name, tensor in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if name != "lm.lm_head.weight"
        }

    def run_stage(self, stage: Stage) -> None:
        """All steps of a stage, from wherever the run stands in it."""
        last = min(stage.steps, self.recipe.train.max_steps or stage.steps)
        self._enter(stage)
        if self.recipe.train.compile and last >= WORTH_COMPILING:
            self.model.lm.model.compile(dynamic=True)
        learners = optimizers(self.model, stage, self.recipe.train)
        restore_optimizers(self.model, learners, self.optimizer_state)
        module = Losses(self.model, stage.losses, self.words, self.reference)
        module, *prepared = self.accelerator.prepare(module, *learners)
        groups = [group for optimizer in learners for group in optimizer.param_groups]
        factors = [group["lr"] for group in groups]
        trained = [p for group in groups for p in group["params"]]
        window: list[Tensor] = []
        began = saved = time.monotonic()
        batches = self._batches(stage, last - self.step)
        while self.step < last:
            step = [next(batches) for _ in range(stage.accumulate)]
            for group, factor in zip(groups, factors, strict=True):
                group["lr"] = factor * rate(stage, self.step)
            self.model.zero_grad(set_to_none=True)
            window.append(self._backward(stage, module, step))
            torch.nn.utils.clip_grad_norm_(trained, self.recipe.train.clip)
            for optimizer in prepared:
                optimizer.step()
            self._update_average()
            self.step += 1
            self.samples_seen += stage.batch_size
            per_s = len(window) / (time.monotonic() - began)
            self.log.progress(stage.name, self.step, last, per_s)
            if self.step % self.recipe.train.log_every == 0 or self.step == last:
                self._say(stage, torch.stack(window).mean(0), per_s)
                window, began = [], time.monotonic()
            looks = stage.evaluate_every and self.step % stage.evaluate_every == 0
            if looks and self._look(stage, module):
                break
            if time.monotonic() - saved > 60 * self.recipe.train.checkpoint_minutes:
                self.optimizer_state = keep_optimizers(self.model, learners)
                self.save()
                saved = time.monotonic()
        self._leave(stage)
        self.save()

    def _enter(self, stage: Stage) -> None:
        """The model as the stage needs it: adapters, what learns, number formats, reference."""
        if stage.lora and not has_lora(self.model):
            add_lora(self.model, stage.lora)
            self.average = {
                name: tensor.detach().clone() for name, tensor in self._weights().items()
            }
        freeze(self.model, stage)
        if "preference" in stage.losses and self.reference is None:
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
        for block in (self.model.vision.backbone.stem, *self.model.vision.backbone.blocks):
            frozen = not next(block.parameters()).requires_grad
            bf16 = frozen and self.recipe.train.precision == "bf16"
            block.to(torch.bfloat16 if bf16 else torch.float32)
        self.model.to(memory_format=torch.channels_last)

    def _leave(self, stage: Stage) -> None:
        if stage.lora:
            self.average = merged(self.average, stage.lora)
            merge_lora(self.model)
        self.stage_index, self.step, self.optimizer_state = self.stage_index + 1, 0, {}
        self.best, self.looks_since_best, self.reference = float("inf"), 0, None

    def _backward(self, stage: Stage, module: torch.nn.Module, batches: list[Batch]) -> Tensor:
        """Gradients of the weighted losses of a step; returns each loss, [N].

        Every loss is a mean over all that the step holds, in whatever parts it is computed.
        """
        mine = [counts(batch, stage.losses, self.model) for batch in batches]
        parts = torch.stack([torch.stack([c[name] for name in stage.losses]) for c in mine])
        shares = parts / total(parts.sum(0)).clamp(min=1e-6)
        weights = torch.tensor(list(stage.losses.values()), device=shares.device)
        means = torch.zeros_like(weights)
        for number, (batch, share) in enumerate(zip(batches, shares, strict=True), 1):
            losses = self._forward(module, batch)
            values = torch.stack([losses[name].float() for name in stage.losses])
            sync = number == len(batches) or self.accelerator.num_processes == 1
            with torch.enable_grad() if sync else self.accelerator.no_sync(module):
                whole = (weights * values * share).sum() * self.accelerator.num_processes
                self.accelerator.backward(whole)
            means += values.detach() * share
        means = total(means)
        if not torch.isfinite(means).all():
            raise TrainingError(
                f"the loss is {(weights * means).sum().item()} at step {self.step} of stage "
                f"{stage.name}; the last checkpoint is whole: lower learning_rate, then --resume"
            )
        return means

    def _forward(self, module: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        bf16 = self.recipe.train.precision == "bf16"
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bf16):
            return module(batch)

    def _look(self, stage: Stage, module: torch.nn.Module) -> bool:
        """The losses on data.val; True when the stage's patience is at its end."""
        numbers = Share(
            0,
            LOOK,
            msgspec.structs.replace(stage, accumulate=1),
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        module.eval()
        found = torch.zeros(len(stage.losses), device=self.accelerator.device)
        with torch.no_grad():
            for batch in self._loader(self.recipe.data.val, stage, numbers):
                losses = self._forward(module, batch.to(self.accelerator.device))
                found += torch.stack([losses[name].float() for name in stage.losses]) / LOOK
        freeze(self.model, stage)
        means = total(found) / self.accelerator.num_processes
        loss = sum(w * v for w, v in zip(stage.losses.values(), means.tolist(), strict=True))
        named = dict(zip((f"val_{name}" for name in stage.losses), means.tolist(), strict=True))
        self.log.line(
            {"stage": stage.name, "step": self.step, "val": loss, **named}, self.samples_seen
        )
        self.looks_since_best = 0 if loss < self.best else self.looks_since_best + 1
        self.best = min(loss, self.best)
        return bool(stage.patience) and self.looks_since_best >= stage.patience

    def _batches(self, stage: Stage, steps: int) -> Iterator[Batch]:
        numbers = Share(
            self.samples_seen,
            steps,
            stage,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        for batch in self._loader(self.recipe.data.train, stage, numbers):
            yield batch.to(self.accelerator.device)

    def _loader(self, folders: tuple[str, ...], stage: Stage, numbers: Share) -> DataLoader:
        data = self.recipe.data
        samples = SceneSamples(
            [Path(folder) for folder in folders],
            self.model.config,
            self.tokenizer,
            data.questions,
            data.max_tokens,
            self.recipe.train.seed,
            preferences="preference" in stage.losses,
        )
        return DataLoader(
            samples,
            batch_size=numbers.micro,
            collate_fn=collate,
            sampler=numbers,
            num_workers=data.workers,
            multiprocessing_context="fork" if data.workers else None,
            prefetch_factor=4 if data.workers else None,
        )

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

    def _say(self, stage: Stage, means: Tensor, steps_per_s: float) -> None:
        line = {
            "stage": stage.name,
            "step": self.step,
            "samples": self.samples_seen,
            "samples_per_s": round(steps_per_s * stage.batch_size, 1),
            "rate": rate(stage, self.step - 1),
            **dict(zip(stage.losses, means.tolist(), strict=True)),
        }
        self.log.line(line, self.samples_seen)

    def save(self) -> None:
        """The checkpoint to use (average, bf16), then the state to resume from (fp32)."""
        if not self.first:
            return
        recipe = yaml.safe_dump(msgspec.to_builtins(self.recipe), sort_keys=False)
        stage = self.recipe.stages[min(self.stage_index, len(self.recipe.stages) - 1)]
        plain = merged(self.average, stage.lora) if has_lora(self.model) else self.average
        groups = {
            "weights": self._weights(),
            "average": self.average,
            "optimizer": self.optimizer_state,
        }
        if self.reference is not None:
            groups["reference"] = dict(self.reference.lm.model.state_dict())
        progress = {
            "stage": self.stage_index,
            "step": self.step,
            "samples": self.samples_seen,
            "best": self.best,
            "looks_since_best": self.looks_since_best,
        }
        try:
            save_checkpoint(
                self.out / "checkpoint", self.model, plain, self.tokenizer, {"recipe.yaml": recipe}
            )
            save_state(self.out / "state", groups, progress)
        except OSError as error:
            raise TrainingError(
                f"{self.out} cannot be written: {error}; what was saved before is intact: make "
                "room, then --resume"
            ) from error

    def restore(self) -> None:
        """Go on from `out/state`."""
        saved = load_state(self.out / "state")
        if saved is None:
            raise TrainingError(f"nothing to resume: {self.out / 'state'} holds no saved run")
        groups, progress = saved
        self.tokenizer = load_tokenizer(self.out / "checkpoint")
        self.words = Words(self.tokenizer)
        self.stage_index, self.step = progress["stage"], progress["step"]
        self.samples_seen = progress["samples"]
        self.best, self.looks_since_best = progress["best"], progress["looks_since_best"]
        if any(".lora_" in name for name in groups["weights"]):
            add_lora(self.model, self.recipe.stages[self.stage_index].lora or Lora())
        if "reference" in groups:
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
            self.reference.lm.model.load_state_dict(groups["reference"])
        self.model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in groups["weights"].items()},
            strict=False,
        )
        device = self.accelerator.device
        self.average = {name: tensor.to(device) for name, tensor in groups["average"].items()}
        self.optimizer_state = groups["optimizer"]
