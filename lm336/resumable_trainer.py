"""The trainer that keeps checkpoints in its folder, and continues from the newest of them.

`lm336.checkpoints` has the format; here is when a checkpoint is written, what is saved with
it, and what a run that goes wrong says about the last good one. Chapter 13 explains why."""

import json
import math
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .checkpoints import check_same_run, keep_newest, read_checkpoint, restore, save_checkpoint
from .devices import sum_over_processes
from .errors import InputError
from .fast_trainer import FastTrainer
from .files import atomic_path
from .run_folder import read_metrics

__all__ = ["ResumableTrainer"]

MOST_OVERFLOWS = 20  # in float16: this many updates skipped in a row end a run


class ResumableTrainer(FastTrainer):
    """A `FastTrainer` that keeps checkpoints in its folder, and continues from them.

    Arguments as for `FastTrainer`."""

    seconds = 0.0  # that training has taken, over all resumptions
    saved: int | None = None  # step of the last checkpoint
    validated: int | None = None  # step of the last evaluation on the validation text
    overflows = 0  # updates skipped in a row, up to the last one

    def last_checkpoint(self) -> Path | None:
        "Path of the newest checkpoint in the run folder; None if there is none."
        return max((self.folder / "checkpoints").glob("step_*.safetensors"), default=None)

    def last_good(self) -> str:
        "A sentence about the last good checkpoint."
        last = self.last_checkpoint()
        if last is None:
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is {last}"

    def save(self):
        """Write a checkpoint and the weights; keep the last two checkpoints.

        `OSError` if the disk is full, `FloatingPointError` if a number is not finite."""
        if self.rank:
            return
        kept = self.last_good()
        if self.update.stopped:
            raise FloatingPointError(
                f"step {self.step} is not saved: it or an update before it met a loss or a "
                f"gradient that is not finite; {kept}"
            )
        path = self.folder / "checkpoints" / f"step_{self.step:08}.safetensors"
        path.parent.mkdir(exist_ok=True)
        try:
            save_checkpoint(self.model, self.optimizer, self.step, path, self.circumstances())
            self.model.save_pretrained(self.folder)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {self.step} cannot be saved: {error}; {kept}; "
                "a lower learning rate usually helps"
            ) from None
        except OSError as error:
            raise OSError(f"step {self.step} could not be saved: {error}; {kept}") from None
        self.saved = self.step
        keep_newest(path.parent, "step_*.safetensors")

    def circumstances(self) -> dict[str, Any]:  # what JSON can hold
        "What a checkpoint holds besides weights, averages and step."
        return dict(
            model=asdict(self.model.config),
            training=asdict(self.config),
            precision=self.precision,
            products=self.products,
            scaler=self.update.scaler.state_dict(),
            skipped=int(self.update.skipped),
            seconds=self.seconds,
        )

    def resume(self) -> int:
        """Go back to the newest checkpoint, metrics included. Returns its step.

        `InputError`, with nothing changed, if there is none or it differs."""
        path = self.last_checkpoint()
        if path is None:
            raise InputError(
                f"{self.folder} has no checkpoint to resume from: "
                "start the run without --resume"
            )
        tensors, record = read_checkpoint(path)
        step, lines = record["step"], []
        check_same_run(record["extra"], path, self.model.config, self.config)
        if self.rank == 0:
            lines = [line for line in read_metrics(self.folder) if line["step"] <= step]
        restore(tensors, record, self.model, self.optimizer)
        self.return_to(record["extra"])
        self.step = self.saved = step
        looks = [line for line in lines if "valid_loss" in line and line["step"] == step]
        if sum_over_processes(torch.tensor(len(looks), device=self.device)):
            self.validated = step
        if self.rank == 0:
            with atomic_path(self.folder / "metrics.jsonl") as file:
                text = "".join(json.dumps(line) + "\n" for line in lines)
                file.write_text(text, encoding="utf-8")
            self.model.save_pretrained(self.folder)  # whatever became of the weights' own file
        return step

    def return_to(
        self,
        before: dict[str, Any],  # the `circumstances` of a checkpoint
    ):
        """Restore the loss scale, the count of skipped updates, the seconds so far, and the
        library that takes the products."""
        self.multiply_by(before.get("products", "PyTorch"))  # as every earlier version did
        if before.get("scaler") and self.update.scaler.is_enabled():
            self.update.scaler.load_state_dict(before["scaler"])
        if before.get("precision", self.precision) != self.precision:
            warnings.warn(
                f"this run has been trained in {before['precision']} so far, and continues "
                f"in {self.precision}: its numbers will differ from those of a run on one "
                "machine",
                stacklevel=3,
            )
        self.update.skipped = before.get("skipped", 0)
        self.seconds = before.get("seconds", 0.0)

    def advice(self) -> str:
        "What to do when a run went wrong, and where to continue."
        return f"{self.last_good()}; {super().advice()}"

    def check_finite(
        self,
        where: str,  # step and learning rate, for the sentence
        loss: float,  # what an update met
        norm: float,  # of its gradient
    ):
        "`FloatingPointError` if one is not finite; in float16, at the twentieth in a row."
        self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
        if self.update.scaler.is_enabled() and self.overflows:
            norm = 0.0  # the update was skipped
        super().check_finite(where, loss, norm)
        if self.overflows >= MOST_OVERFLOWS:
            raise FloatingPointError(
                f"the gradient overflowed {self.overflows} times in a row in float16, the "
                f"last time {where}, and none of these updates was made; {self.advice()}"
            )

    def on_spike(
        self,
        step: int,  # of the jump
        message: str,  # what happened
    ):
        "Say that the loss jumped, and put the checkpoint from before the jump aside."
        if self.rank:
            return
        last = self.last_checkpoint()
        if last:
            with atomic_path(last.with_name(f"before_spike_{step:08}.safetensors")) as path:
                shutil.copyfile(last, path)
            keep_newest(last.parent, "before_spike_*.safetensors")
        super().on_spike(step, f"{message}; {self.last_good()}")
