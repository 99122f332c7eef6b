"""Where a run computes, in which number format, and with how many processes.

What is decided here depends on the machine, never on the model. Chapter 13 explains why."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .configuration import PRECISIONS
from .errors import InputError

__all__ = [
    "of_first_process",
    "pick_device",
    "pick_precision",
    "process_group",
    "processes",
    "sum_over_processes",
]

GROUP_TIMEOUT = timedelta(hours=12)  # for the others to come, and for what all of them share


def pick_device(
    name: str | torch.device | None = None,  # cpu, cuda, cuda:1, mps; None: cuda or cpu
) -> torch.device:
    """Where this process computes. Each process of a run gets a GPU of its own.

    `InputError` for a device that is unknown or that this machine lacks."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(
            f"device {name!r} is unknown: one of cpu, cuda, cuda:1 (and so on) or mps "
            "is needed"
        )
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    index = device.index
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.type == "cuda" else 0
    if index >= count:
        raise InputError(
            f"device {name!s} is not available: on this machine PyTorch finds {count} of the "
            f"kind {device.type}"
        )
    return torch.device("cuda", index) if device.type == "cuda" else torch.device(device.type)


def pick_precision(
    device: torch.device,  # where the model will train
) -> str:  # "bfloat16", "float16" or "float32"
    """The number format for products: what the environment variable LM336_PRECISION says.

    Else the fastest safe one: bfloat16 in hardware, float16 on older GPUs, or float32."""
    from .accounting import cpu_has_bfloat16

    wanted = os.environ.get("LM336_PRECISION", "")
    if wanted not in ("", *PRECISIONS):
        raise InputError(
            f"LM336_PRECISION is {wanted!r}: one of {', '.join(PRECISIONS)} is needed"
        )
    if wanted not in ("", "auto"):
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and cpu_has_bfloat16() else "float32"


def processes() -> tuple[int, int]:  # this process's rank, and how many there are
    "What `torchrun` told this process; (0, 1) for a process on its own."
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def process_group(
    device: torch.device,  # where this process trains
) -> tuple[int, int]:  # as `processes`
    "Join the processes that `torchrun` started, until the program ends."
    rank, count = processes()
    if count > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what barrier() and the like then use
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=GROUP_TIMEOUT)
        atexit.register(_leave_group)
    return rank, count


def _leave_group():
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_processes(
    value: torch.Tensor,  # on this process's device; changed in place
) -> torch.Tensor:  # the same shape
    "The sum of a tensor over all processes of a run; unchanged if there is only one."
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def of_first_process(
    value: Any,  # this process's
) -> Any:
    "What the first process of a run has in its place; unchanged if there is only one."
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]
