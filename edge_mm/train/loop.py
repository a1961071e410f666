"""The training loop: stages in order, one forward pass of packed samples a step.

Weights live in fp32 (the frozen backbone in bf16), the forward pass runs in bf16 autocast where the
recipe says so and the processor can. What is saved as the checkpoint is the running average of the
weights; `state/` beside it holds all that a resumed run needs. Under `accelerate launch` every
process takes its share of each step, and the curve is the one of a single process, also where the
processes share one model (`sharded`); what is saved then are the weights as they are.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import msgspec
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from tokenizers import Tokenizer
from torch import Tensor

from edge_mm.data.samples import Batch
from edge_mm.model.checkpoint import save_checkpoint, tied_weights
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.feature_statistics import fit_input_norms
from edge_mm.tokenizer import load_tokenizer
from edge_mm.train.alignment_losses import Words
from edge_mm.train.average import update_average
from edge_mm.train.distributed import of_the_first, total
from edge_mm.train.feed import LOOK, Feed
from edge_mm.train.log import RunLog
from edge_mm.train.lora import add_lora, has_lora, merge_lora, merged
from edge_mm.train.losses import Losses, check_losses, counts, reading_weights
from edge_mm.train.optimizers import freeze, optimizers, own_eye, rate
from edge_mm.train.policy import Policy
from edge_mm.train.precision import in_bf16
from edge_mm.train.recipe import Lora, Recipe, Stage
from edge_mm.train.recompute import checkpoint_activations
from edge_mm.train.sharded import check_resumable, sharded_run
from edge_mm.train.start import start_model
from edge_mm.train.state import (
    keep_optimizers,
    load_state,
    restore_optimizers,
    save_state,
    saved_parts,
)
from edge_mm.train.trace import start_trace
from edge_mm_runtime.errors import EdgeMMError

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
    elif recipe.model.tower is not None and not recipe.model.init:
        run.measure()
    while run.stage_index < len(recipe.stages):
        run.run_stage(recipe.stages[run.stage_index])
    run.save()
    run.log.close()
    run.accelerator.end_training()  # a process group that outlives the interpreter aborts it
    return out / "checkpoint"


class Run:
    """A run in progress: model, average, optimiser, and where in the recipe it stands."""

    def __init__(self, recipe: Recipe, out: Path, model: EdgeMM, tokenizer: Tokenizer):
        self.recipe, self.out, self.model, self.tokenizer = recipe, out, model, tokenizer
        data_parallel = DistributedDataParallelKwargs(
            find_unused_parameters=True, gradient_as_bucket_view=True
        )
        self.accelerator = Accelerator(kwargs_handlers=[data_parallel])
        self.sharded = sharded_run(self.accelerator, recipe)
        check_losses(recipe.stages, model, self.sharded is not None)
        self.first = self.accelerator.is_main_process
        self.bf16 = in_bf16(recipe.train.precision, self.accelerator.device, tell=self.first)
        self.log = RunLog(out if self.first else None, recipe.train.tensorboard)
        self.stage_index, self.step, self.samples_seen = 0, 0, 0
        self.best, self.looks_since_best = float("inf"), 0
        self.words = Words(tokenizer)
        self.feed = Feed(recipe, model.config, tokenizer, self.accelerator)
        self.trace = start_trace(recipe, out, model.config, tokenizer) if self.first else None
        self.reference: EdgeMM | None = None
        self.optimizer_state: dict[str, Tensor] = {}
        self.loss_state: dict[str, Tensor] = {}  # of what losses learn beside the model
        self.optimizer_parts: Path | None = None  # to go on from
        self.model.to(self.accelerator.device)
        self.average = self._start_average()

    def _weights(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        if self.sharded is not None and self.sharded.module is not None:
            state = self.sharded.weights()
        tied = tied_weights(self.model)
        return {name: tensor for name, tensor in state.items() if name not in tied}

    def measure(self) -> None:
        """Fold what the features of a tower that is not ours are like into the projector."""
        stage = next(stage for stage in self.recipe.stages if stage.steps)
        fit_input_norms(self.model, self.feed.first(stage))
        self.average = self._start_average()

    def _start_average(self) -> dict[str, Tensor]:
        if self.sharded is not None:
            return {}
        return {name: tensor.detach().clone() for name, tensor in self._weights().items()}

    def run_stage(self, stage: Stage) -> None:
        """All steps of a stage, from wherever the run stands in it."""
        last = min(stage.steps, self.recipe.train.max_steps or stage.steps)
        self._enter(stage)
        if self.recipe.train.compile and last >= WORTH_COMPILING:
            self.model.decoder.compile(dynamic=True)
        if self.sharded is not None:
            self.sharded.before(self.model, stage)
        policy = Policy(self.tokenizer, self.model.config.grounding.bins)
        losses = Losses(self.model, stage.losses, self.words, self.reference, policy)
        losses.own.to(self.accelerator.device).load_state_dict(self.loss_state, strict=False)
        learners = optimizers(self.model, stage, self.recipe.train, losses.own.parameters())
        restore_optimizers(losses, learners, self.optimizer_state)
        module, *prepared = self.accelerator.prepare(losses, *learners)
        if self.sharded is not None:
            self.sharded.begin(module, learners, self.optimizer_parts)
            self.optimizer_parts = None
        groups = [group for optimizer in learners for group in optimizer.param_groups]
        factors = [group["lr"] for group in groups]
        trained = [p for group in groups for p in group["params"]]
        if self.trace and self.samples_seen == 0:
            self.trace.record(self.model, stage.name, 0, 0)
        window: list[Tensor] = []
        began = saved = time.monotonic()
        batches = self.feed.train(stage, self.samples_seen, last - self.step)
        while self.step < last:
            step = [next(batches) for _ in range(stage.accumulate)]
            for group, factor in zip(groups, factors, strict=True):
                group["lr"] = factor * rate(stage, self.step)
            losses.zero_grad(set_to_none=True)
            means = self._backward(stage, module, step)
            clip = self.sharded.clip if self.sharded else torch.nn.utils.clip_grad_norm_
            norm = clip(trained, self.recipe.train.clip)
            window.append(torch.cat([means, norm.reshape(1)]))
            for optimizer in prepared:
                optimizer.step()
            if self.sharded is None:
                longest = self.recipe.train.average
                update_average(self.average, self._weights(), self.step, longest)
            self.step += 1
            self.samples_seen += stage.batch_size
            if self.trace and self.trace.due(self.step, last):
                self.trace.record(self.model, stage.name, self.step, self.samples_seen)
            per_s = len(window) / (time.monotonic() - began)
            self.log.progress(stage.name, self.step, last, per_s)
            if self.step % self.recipe.train.log_every == 0 or self.step == last:
                self._say(stage, torch.stack(window).mean(0), per_s)
                window, began = [], time.monotonic()
            looks = stage.evaluate_every and self.step % stage.evaluate_every == 0
            if looks and self._look(stage, module):
                break
            due = time.monotonic() - saved > 60 * self.recipe.train.checkpoint_minutes
            if of_the_first(due, self.accelerator.device):
                if self.sharded is None:
                    self.optimizer_state = keep_optimizers(losses, learners)
                    self.loss_state = losses.own.state_dict()
                self.save()
                saved = time.monotonic()
        self._leave(stage)
        self.save()

    def _enter(self, stage: Stage) -> None:
        """The model as the stage needs it: adapters, what learns, number formats, reference."""
        if stage.lora and not has_lora(self.model):
            add_lora(self.model, stage.lora)
            self.average = self._start_average()
        freeze(self.model, stage)
        if self.recipe.train.activation_checkpointing:
            checkpoint_activations(self.model)
        if stage.compares and self.reference is None:
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
        for block in own_eye(self.model):
            frozen = not next(block.parameters()).requires_grad
            block.to(torch.bfloat16 if frozen and self.bf16 else torch.float32)
        if self.sharded is None:  # FSDP cuts up rows only
            self.model.to(memory_format=torch.channels_last)

    def _leave(self, stage: Stage) -> None:
        if self.sharded is not None:
            weights = self._weights()
            self.sharded.end()
            self.model = EdgeMM(self.model.config).to(self.accelerator.device)
            if stage.lora:
                add_lora(self.model, stage.lora)
            self.model.load_state_dict(weights, strict=False)
        if stage.lora:
            self.average = merged(self.average, stage.lora)
            merge_lora(self.model)
        self.stage_index, self.step = self.stage_index + 1, 0
        self.optimizer_state, self.loss_state = {}, {}
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
            is_last = number == len(batches)
            self.accelerator.sync_gradients = is_last  # DeepSpeed: the step follows
            alone = self.accelerator.num_processes == 1 or self.sharded is not None
            with torch.enable_grad() if is_last or alone else self.accelerator.no_sync(module):
                losses = self._forward(module, batch)
                values = torch.stack([losses[name].float() for name in stage.losses])
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
        cache = self.sharded is None  # it would keep what FSDP lets go
        with torch.autocast(
            self.accelerator.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=cache
        ):
            return module(batch)

    def _look(self, stage: Stage, module: torch.nn.Module) -> bool:
        """The losses on data.val; True when the stage's patience is at its end."""
        module.eval()
        found = torch.zeros(len(stage.losses), device=self.accelerator.device)
        with torch.no_grad():
            for batch in self.feed.val(stage):
                losses = self._forward(module, batch)
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

    def _say(self, stage: Stage, means: Tensor, steps_per_s: float) -> None:
        line = {
            "stage": stage.name,
            "step": self.step,
            "samples": self.samples_seen,
            "samples_per_s": round(steps_per_s * stage.batch_size, 1),
            "rate": rate(stage, self.step - 1),
            **dict(zip([*stage.losses, "grad_norm"], means.tolist(), strict=True)),
        }
        if self.feed.samples is not None:
            line["skipped"] = self.feed.skipped()
        self.log.line(line, self.samples_seen)

    def save(self) -> None:
        """The checkpoint to use (average, bf16), then the state to resume from (fp32)."""
        parts, weights, streams = None, self._weights(), self.feed.state()
        if self.sharded is not None:
            parts = self.sharded.save_optimizers(self.out / "optimizer.tmp")
        if not self.first:
            return
        recipe = yaml.safe_dump(msgspec.to_builtins(self.recipe), sort_keys=False)
        stage = self.recipe.stages[min(self.stage_index, len(self.recipe.stages) - 1)]
        plain = self.average if self.sharded is None else weights
        if has_lora(self.model):
            plain = merged(plain, stage.lora)
        groups = {
            "weights": weights,
            "average": self.average,
            "optimizer": self.optimizer_state,
            "losses": self.loss_state,
        }
        if self.reference is not None:
            groups["reference"] = reading_weights(self.reference)
        progress = {
            "stage": self.stage_index,
            "step": self.step,
            "samples": self.samples_seen,
            "best": self.best,
            "looks_since_best": self.looks_since_best,
            "streams": streams,
            "processes": self.accelerator.num_processes,
        }
        try:
            save_checkpoint(
                self.out / "checkpoint", self.model, plain, self.tokenizer, {"recipe.yaml": recipe}
            )
            save_state(self.out / "state", groups, progress, parts)
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
        self.optimizer_parts = saved_parts(self.out / "state")
        check_resumable(self.sharded, groups["optimizer"], self.optimizer_parts)
        self.tokenizer = load_tokenizer(self.out / "checkpoint")
        self.words = Words(self.tokenizer)
        self.feed.tokenizer = self.tokenizer
        self.feed.load_state(progress.get("streams"))
        self.stage_index, self.step = progress["stage"], progress["step"]
        self.samples_seen = progress["samples"]
        self.best, self.looks_since_best = progress["best"], progress["looks_since_best"]
        if any(".lora_" in name for name in groups["weights"]):
            add_lora(self.model, self.recipe.stages[self.stage_index].lora or Lora())
        if "reference" in groups:
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
            self.reference.load_state_dict(groups["reference"], strict=False)
        self.model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in groups["weights"].items()},
            strict=False,
        )
        self.average = self._start_average()
        if self.average and groups["average"]:
            self.average = {k: v.to(self.accelerator.device) for k, v in groups["average"].items()}
        self.optimizer_state = groups["optimizer"]
        self.loss_state = groups.get("losses", {})
