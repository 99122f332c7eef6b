"""The trainer with fast updates: in 16 bits, in micro-batches, shared by several processes.

It has the parts of `lm336.fast_training` in place of the plain trainer's. Chapter 13 explains
when that pays."""

import os
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .configuration import TrainingConfig
from .dataset import batch_at
from .devices import (
    of_first_process,
    pick_device,
    pick_precision,
    process_group,
    processes,
    sum_over_processes,
)
from .errors import InputError
from .training import Trainer
from .transformer import Transformer

__all__ = ["FastTrainer", "check_training"]


def check_training(
    config: TrainingConfig,  # of a run, before it begins
    device: torch.device,  # where it is to train
):
    "`InputError` for a setting that this machine, or these processes, cannot follow."
    from .fast_model import library_asked_for
    from .fast_training import compile_fault

    count = processes()[1]
    if config.batch_size % (count * config.gradient_accumulation_steps):
        raise InputError(
            f"training.batch_size {config.batch_size} cannot be shared by {count} processes"
        )
    if config.precision == "auto":
        pick_precision(device)
    if device.type == "cpu":
        library_asked_for()
    fault = compile_fault(device) if config.compile == "on" else None
    if fault:
        raise InputError(
            f"training.compile is 'on', but torch.compile does not work here ({fault}): "
            "install a C++ compiler, or give 'off'"
        )


class FastTrainer(Trainer):
    """A `Trainer` whose updates are fast, and never ask the device for a number.

    `InputError` for what this machine cannot do, or a text that is too short."""

    def __init__(
        self,
        model: Transformer,  # the model, with its initial weights
        train_tokens: np.ndarray,  # integers (number of tokens,): see `load_tokens`
        valid_tokens: np.ndarray,  # integers (number of tokens,) to be tested on
        config: TrainingConfig,  # the run's numbers
        folder: str | os.PathLike,  # the run folder, made if missing
        device: str | torch.device | None = None,  # as for `pick_device`
    ):
        from .accounting import flops_per_token
        from .fast_model import make_fast, product_library
        from .fast_training import FastUpdate, compiles_well

        place = pick_device(device)
        self.rank, self.num_processes = process_group(place)
        check_training(config, place)
        model = make_fast(model.to(place))
        super().__init__(model, train_tokens, valid_tokens, config, folder)
        self.device = place
        self.precision = config.precision
        if config.precision == "auto":
            self.precision = pick_precision(place)
        self.products = "PyTorch"
        if place.type == "cpu" and self.precision == "float32":
            self.multiply_by(of_first_process(product_library()))
        self.compiled = config.compile == "on"
        if config.compile == "auto":
            tokens = config.max_steps * config.batch_size * self.context_length
            self.compiled = compiles_well(place, flops_per_token(model.config) * tokens)
        self.update = FastUpdate(
            self.model, config, self.precision, self.compiled, self.num_processes
        )
        self.optimizer = self.update.optimizer

    def multiply_by(
        self,
        library: str,  # that the run has used so far
    ):
        "Let this process use a library for its products, if they are in float32 on a CPU."
        from .fast_model import decide_library, library_is_there

        on_cpu = self.device.type == "cpu"
        if on_cpu and self.precision == "float32" and library_is_there(library):
            decide_library(library)
            self.products = library

    def train_step(self) -> tuple[torch.Tensor, torch.Tensor]:  # scalars on the device
        "One update, as `FastUpdate` makes it: if a number is not finite, nothing changes."
        loss, norm = self.update(*self.batch(), self.learning_rate())
        self.step += 1
        return loss, norm

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:  # (batch / processes, seq) each
        "This process's share of the next batch."
        c = self.config
        return batch_at(
            self.train_tokens,
            c.batch_size,
            self.context_length,
            c.seed,
            self.step,
            self.device,
            self.rank,
            self.num_processes,
        )

    def batch_loss(
        self,
        inputs: torch.Tensor,  # token ids (batch, seq)
        targets: torch.Tensor,  # the ids that follow them (batch, seq)
    ) -> torch.Tensor:  # scalar, nats
        "The mean loss of a batch in the run's number format, not compiled."
        from .fast_training import Objective

        return Objective(self.model, self.precision)(inputs, targets)

    def validate(self) -> float:
        "Like `Trainer.validate`, but each process measures its share of the windows."
        starts = self.validation_starts()
        mine = starts[self.rank :: self.num_processes]
        size = self.config.batch_size
        batches = [mine[first : first + size] for first in range(0, len(mine), size)]
        bar = tqdm(
            batches, "validation", unit="batch", delay=2, leave=False, disable=self.rank > 0
        )
        self.model.eval()
        total = sum(self.windows_loss(some) for some in bar)
        self.model.train()
        shared = sum_over_processes(torch.tensor(float(total), device=self.device))
        return shared.item() / len(starts)

    def log(
        self,
        **values: Any,  # name -> number; the step is added
    ):
        "Append one line to metrics.jsonl, if this is the first process."
        if self.rank == 0:
            super().log(**values)
