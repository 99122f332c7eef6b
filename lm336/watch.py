"""How training goes wrong: numbers that are not finite, and losses that jump.

`Watch` is the part of a trainer that looks at the loss and the gradient's norm before every
update. Chapter 12 shows it at work."""

import math
import warnings
from collections import deque

import numpy as np

__all__ = ["Watch"]

MEMORY = 100  # losses that a new one is compared with
LEAST = 20  # as many as this are needed first


class Watch:
    "Stops training at a number that is not finite, and warns of a spike."

    def __init__(self):
        self.recent: deque[float] = deque(maxlen=MEMORY)

    def watch(
        self,
        step: int,  # an update
        learning_rate: float,  # its learning rate
        loss: float,  # of its batch
        norm: float,  # of its gradient
    ):
        """`FloatingPointError` at a number that is not finite; a warning of a spike.

        A spike is a loss that exceeds the mean of the last hundred by six standard deviations
        and by half a nat."""
        where = f"at step {step} with a learning rate of {learning_rate:.2e}"
        self.check_finite(where, loss, norm)
        if len(self.recent) >= LEAST:
            usual, spread = float(np.mean(self.recent)), float(np.std(self.recent))
            if loss > usual + max(6 * spread, 0.5):
                self.on_spike(step, f"the loss jumped from {usual:.3f} to {loss:.3f} {where}")
        self.recent.append(loss)

    def check_finite(
        self,
        where: str,  # step and learning rate, for the message
        loss: float,  # of a batch
        norm: float,  # of its gradient
    ):
        "`FloatingPointError` if one of them is not finite."
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} became {value} {where}, and no update was made; "
                    f"{self.advice()}"
                )

    def on_spike(
        self,
        step: int,  # of the jump
        message: str,  # what happened
    ):
        "Warn that the loss jumped."
        warnings.warn(message, stacklevel=3)

    def advice(self) -> str:
        "What to do when training went wrong."
        return "a lower learning rate or a longer warm-up usually helps"
