"""Training with a part of the model in each process: FSDP and DeepSpeed, as accelerate is told.

A stage begins and ends with the whole model in every process; in between, `weights` puts it
together for a checkpoint. The state of the optimiser is saved in parts, as safetensors by
torch.distributed.checkpoint, and can be read by any number of processes. DeepSpeed's own files are
pickles, which this project does not read: there, a resumed run starts its optimiser anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer as Layer

from edge_mm.train.recipe import Recipe, Stage
from edge_mm.train.state import keep_optimizers, restore_optimizers
from edge_mm_runtime.errors import UsageError


def sharded_run(accelerator: Accelerator, recipe: Recipe) -> Sharded | None:
    """None where each process holds the whole model."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return Sharded(accelerator, recipe)
    return None


def check_resumable(
    sharded: Sharded | None, whole: Mapping[str, Tensor], parts: Path | None
) -> None:
    """UsageError when the saved optimiser state, whole or in parts, is not of such a run."""
    if whole if sharded is not None else parts:
        raise UsageError(
            f"the saved run had {'no' if whole else 'a'} model in parts (FSDP, DeepSpeed): resume "
            "it under the accelerate config that it began with"
        )
    if sharded is not None and sharded.deepspeed and sharded.accelerator.is_main_process:
        print("DeepSpeed: the optimiser starts anew", file=sys.stderr)


class Sharded:
    """A run whose model is cut up for each stage: `before` prepare, `begin`, `end`."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe):
        self.accelerator, self.recipe = accelerator, recipe
        self.deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        self.module: nn.Module | None = None  # in a stage: the prepared Losses, of `model`
        self.model = nn.Module()
        self.optimizers: Sequence[torch.optim.Optimizer] = ()
        self.numbers: set[str] = set()  # parameters without a dimension
        self._check(recipe)

    def _check(self, recipe: Recipe) -> None:
        name = "DeepSpeed" if self.deepspeed else "FSDP"
        stages = [stage for stage in recipe.stages if stage.steps]
        for wrong, why in (
            (
                not self.deepspeed and not self.accelerator.is_fsdp2,
                "needs fsdp_version: 2, see recipes/accelerate/fsdp.yaml",
            ),
            (
                recipe.train.average,
                "has no process with all weights to average: set train.average=0",
            ),
            (recipe.train.trace, "has no process that can look alone: set train.trace=0"),
            (
                any("policy" in stage.losses for stage in stages),
                "calls the model equally often in all processes, and the loss policy does not: "
                "train it with recipes/accelerate/ddp.yaml",
            ),
            (
                self.deepspeed and recipe.train.muon,
                "drives one optimiser: set train.muon=false",
            ),
            (
                self.deepspeed and len(stages) > 1,
                "trains one stage a launch: set the others' steps=0 and go on from the checkpoint "
                "with model.init",
            ),
        ):
            if wrong:
                raise UsageError(f"{name} {why}")

    def before(self, model: nn.Module, stage: Stage) -> None:
        """Make the model ready to be cut up, before there are optimisers."""
        self.model = model
        for path, module in model.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.dim() == 0:  # FSDP cuts along the first dimension
                    row = nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad)
                    setattr(module, name, row)
                    self.numbers.add(f"{path}.{name}".lstrip("."))
        if not self.deepspeed:  # each transformer layer is a unit of its own
            layers = {type(m).__name__ for m in model.modules() if isinstance(m, Layer)}
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(layers)
        else:
            config = self.accelerator.deepspeed_plugin.deepspeed_config
            parts = stage.accumulate * self.accelerator.num_processes
            config["train_micro_batch_size_per_gpu"] = stage.batch_size // parts
            config["gradient_clipping"] = self.recipe.train.clip

    def begin(
        self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], saved: Path | None
    ) -> None:
        """After prepare; `saved` is the folder of `save_optimizers` to go on from."""
        self.module, self.optimizers = module, optimizers
        if saved is not None and not self.deepspeed:
            self._load_optimizers(saved)

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> Tensor:
        """Gradients of at most this norm over all processes; returns the norm that they had."""
        if self.deepspeed:  # has clipped them already, see `before`
            norm = self.accelerator.clip_grad_norm_(parameters, most) or 0.0
            return torch.tensor(norm, device=self.accelerator.device)
        norm = torch.nn.utils.clip_grad_norm_(parameters, most)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def weights(self) -> dict[str, Tensor]:
        """The whole weights by the model's names, on the CPU; every process must ask.

        Under DeepSpeed only the first process gets them all.
        """
        if self.deepspeed:
            state = self.accelerator.get_state_dict(self.module) or {}
            found = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        else:
            found = {
                name: tensor.full_tensor().cpu()
                if isinstance(tensor, DTensor)
                else _of_the_first(tensor)
                for name, tensor in self.model.state_dict().items()
            }
        return {
            name: tensor.reshape(()) if name in self.numbers else tensor
            for name, tensor in found.items()
        }

    def save_optimizers(self, folder: Path) -> Path | None:
        """Each process's part into `folder`; None when there is none; every process must ask."""
        if self.deepspeed or self.module is None:
            return None
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        distributed_checkpoint.save(
            keep_optimizers(self.model, list(self.optimizers)),
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        )
        self.accelerator.wait_for_everyone()
        return folder

    def _load_optimizers(self, folder: Path) -> None:
        reader = HuggingFaceStorageReader(str(folder))
        parameters = dict(self.model.named_parameters())
        state: dict[str, Tensor] = {}
        for key, saved in reader.read_metadata().state_dict_metadata.items():
            assert isinstance(saved, TensorStorageMetadata)
            parameter = parameters[key.split("|")[0]]
            if saved.size == parameter.shape:
                state[key] = torch.zeros_like(parameter)
            else:  # the number of steps
                state[key] = torch.zeros(saved.size, device=parameter.device)
        distributed_checkpoint.load(state, storage_reader=reader)
        restore_optimizers(self.model, list(self.optimizers), state)

    def end(self) -> None:
        """The stage is over: let its parts go."""
        self.module, self.model, self.optimizers = None, nn.Module(), ()
        self.accelerator.free_memory()


def _of_the_first(tensor: Tensor) -> Tensor:
    """What the first process has, on the CPU: buffers are not kept the same by FSDP."""
    torch.distributed.broadcast(tensor, 0)
    return tensor.cpu()
