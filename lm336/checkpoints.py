"""Checkpoints: all that the next step of a run depends on, as one safetensors file.

Chapter 13 explains what belongs in it. Here it is written, read, and compared with the model
and the run that it is for, before either of them is changed."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .configuration import TrainingConfig
from .errors import InputError
from .tensors import WRAPPERS, load_tensors, save_tensors
from .transformer import TransformerConfig

__all__ = ["load_checkpoint", "read_checkpoint", "save_checkpoint"]


def save_checkpoint(
    model: torch.nn.Module,  # whose state dict is stored
    optimizer: torch.optim.Optimizer,  # whose state is stored: per parameter, tensors
    step: int,  # updates done so far
    target: str | os.PathLike | BinaryIO,  # a path, written whole or not at all, or a file
    extra: dict[str, Any] | None = None,  # what JSON can hold: configuration, loss scale, ...
):
    """Write everything that the next step depends on.

    `FloatingPointError` for a number that is not finite, `OSError` if the disk is full."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    numbers = {}
    state = optimizer.state_dict()
    for index, values in state["state"].items():
        for key, value in values.items():
            kept = tensors if torch.is_tensor(value) else numbers
            kept[f"optimizer.{index}.{key}"] = value
    record = dict(
        step=step,
        optimizer=numbers,
        param_groups=state["param_groups"],
        extra={} if extra is None else extra,
    )
    save_tensors(tensors, target, {"lm336": json.dumps(record)})


def read_checkpoint(
    source: str | os.PathLike | BinaryIO,  # a path or an open binary file
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:  # tensors by name, and the record of them
    """A checkpoint's tensors and record.

    `FileNotFoundError`; `InputError` for a file that is damaged, is not a checkpoint, or holds
    a number that is not finite."""
    try:
        tensors, metadata = load_tensors(source)
    except InputError as error:
        raise InputError(f"{error}; an earlier checkpoint may be beside it") from None
    name = source
    if not isinstance(source, (str, os.PathLike)):
        name = getattr(source, "name", "the file")
    record: Any = None
    with suppress(ValueError, RecursionError):  # then it is not a record
        record = json.loads(metadata.get("lm336", ""))
    if not _is_record(record):
        raise InputError(f"{name} is not a checkpoint of lm336: it lacks the record of a step")
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"{name} holds a number in {key} that is not finite: no run can continue "
                "from it; an earlier checkpoint may be beside it"
            )
    return tensors, record


def _is_record(
    record: Any,  # from JSON
) -> bool:
    "Whether it has what `save_checkpoint` writes down."
    if not isinstance(record, dict):
        return False
    kinds: dict[str, type] = dict(step=int, optimizer=dict, param_groups=list, extra=dict)
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            return False
    for group in record["param_groups"]:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            return False
    return True


def load_checkpoint(
    source: str | os.PathLike | BinaryIO,  # a path or an open binary file
    model: torch.nn.Module,  # receives the parameters
    optimizer: torch.optim.Optimizer,  # receives averages, step counts, hyper-parameters
) -> tuple[int, dict[str, Any]]:  # updates done, and the `extra` given to `save_checkpoint`
    "Put a checkpoint's state into a model and an optimizer; on an error neither has changed."
    tensors, record = read_checkpoint(source)
    restore(tensors, record, model, optimizer)
    return record["step"], record["extra"]


def restore(
    tensors: dict[str, torch.Tensor],  # of a checkpoint, as `read_checkpoint` returns them
    record: dict[str, Any],  # of the same
    model: torch.nn.Module,  # receives the parameters
    optimizer: torch.optim.Optimizer,  # receives averages, step counts, hyper-parameters
):
    "The rest of `load_checkpoint`: compare everything, then change everything."
    weights = {
        key.removeprefix("model."): value
        for key, value in tensors.items()
        if key.startswith("model.")
    }
    _check_same_weights(weights, model.state_dict())
    state = _optimizer_state(tensors, record, optimizer)
    optimizer.load_state_dict(state)
    model.load_state_dict(weights)


def _check_same_weights(
    found: dict[str, torch.Tensor],  # by name, in the checkpoint
    wanted: dict[str, torch.Tensor],  # by name, in the model
):
    "`InputError` for the first weight that is not in both, or has another shape."
    missing = sorted(wanted.keys() - found.keys())
    more = sorted(found.keys() - wanted.keys())
    for names, whose in ((more, "checkpoint"), (missing, "model")):
        for prefix, wrapper in WRAPPERS.items():
            if names and all(name.startswith(prefix) for name in names):
                raise InputError(
                    f"the names of the {whose}'s weights begin with {prefix!r}, which "
                    f"{wrapper} puts before them: save and load the model that is inside"
                )
    if missing:
        raise InputError(
            f"the checkpoint lacks {missing[0]}, which this model has: "
            "was it another configuration?"
        )
    if more:
        raise InputError(
            f"the checkpoint has {more[0]}, which this model lacks: "
            "was it another configuration?"
        )
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise InputError(
                f"{name} has shape {tuple(found[name].shape)} in the checkpoint "
                f"and {tuple(value.shape)} in this model"
            )


def _optimizer_state(
    tensors: dict[str, torch.Tensor],  # of a checkpoint
    record: dict[str, Any],  # of the same
    optimizer: torch.optim.Optimizer,  # that it is for
) -> dict[str, Any]:  # what its `load_state_dict` takes
    "`InputError` if the optimizer has other groups, or parameters of other shapes."
    groups = [dict(group) for group in record["param_groups"]]
    found = [len(group["params"]) for group in groups]
    wanted = [len(group["params"]) for group in optimizer.param_groups]
    if found != wanted:
        raise InputError(
            f"the checkpoint's optimizer has groups of {found} parameters, "
            f"this one of {wanted}"
        )
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])  # JSON has no tuples
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = [index for group in groups for index in group["params"]]
    shapes = dict(zip(places, (p.shape for p in parameters)))
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *record["optimizer"].items()]:
        kind, *rest = key.split(".", 2)
        if kind != "optimizer":
            continue
        if len(rest) < 2 or not rest[0].isdecimal() or int(rest[0]) not in shapes:
            raise InputError(
                f"the checkpoint has {key}, but this optimizer has no such parameter"
            )
        index, name = int(rest[0]), rest[1]
        if torch.is_tensor(value) and value.ndim and value.shape != shapes[index]:
            raise InputError(
                f"the checkpoint's {key} has shape {tuple(value.shape)}, its parameter "
                f"{tuple(shapes[index])}: are the optimizer's parameters in another order?"
            )
        state.setdefault(index, {})[name] = value
    return dict(state=state, param_groups=groups)


def check_same_run(
    extra: dict[str, Any],  # of a checkpoint
    path: Path,  # the checkpoint
    model: TransformerConfig,  # of the run that would go on from it
    training: TrainingConfig,  # of the same
):
    "`InputError` for the first setting of the model or the training that has changed."
    for part, config in (("model", model), ("training", training)):
        then = extra.get(part)
        if not isinstance(then, dict):
            raise InputError(
                f"{path} does not say which {part} it is for: it was not written by a run"
            )
        if part == "training":
            then = asdict(TrainingConfig()) | then  # some fields are newer than the checkpoint
        then = json.loads(json.dumps(then))  # JSON has no tuples
        now = json.loads(json.dumps(asdict(config)))
        for name, value in now.items():
            if then.get(name) != value:
                raise InputError(
                    f"{part}.{name} is {value!r} now and {then.get(name)!r} in {path}: "
                    "resume with the same configuration, or start a new run"
                )


def keep_newest(
    folder: Path,  # of checkpoints
    pattern: str,  # of file names that sort by age
):
    "Remove all matching files but the newest two."
    for old in sorted(folder.glob(pattern))[:-2]:
        old.unlink()
