"""Safetensors files that carry their own digest and hold only finite numbers; and a check
that a token can be drawn from scores."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save, save_file

from .errors import InputError
from .files import atomic_path

__all__ = [
    "WRAPPERS",
    "check_scores",
    "check_weights",
    "is_finite",
    "load_tensors",
    "save_tensors",
]

DIGEST = "lm336.sha256"  # its name in a file's metadata, which no other program uses
# the prefix of a wrapped model's weights -> what wrapped it
WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel"}


def save_tensors(
    tensors: dict[str, torch.Tensor],  # by name
    target: str | os.PathLike | BinaryIO,  # a path, or a binary file that is open
    metadata: dict[str, str] | None = None,  # stored with them
):
    """Write tensors with their digest; to a path, whole or not at all.

    `FloatingPointError` names the first with a number that is not finite, before anything is
    written; `OSError` if the disk is full.
    """
    # two names of one storage, as of a tied head, become two tensors
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise FloatingPointError(
                f"{name} holds a number that is not finite, and is not saved"
            )
        if tensor.untyped_storage().data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    metadata = {} if metadata is None else dict(metadata)
    metadata[DIGEST] = _digest(tensors, metadata)
    if not isinstance(target, (str, os.PathLike)):
        target.write(save(tensors, metadata))
        return
    with atomic_path(target) as path:
        try:
            save_file(tensors, path, metadata)
        except SafetensorError as error:  # its name for a full disk, too
            raise OSError(f"{target} could not be written: {error}") from None


def load_tensors(
    source: str | os.PathLike | BinaryIO,  # a path, or a binary file that is open
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:  # by name, on the CPU; and the metadata
    """Read tensors back. Other programs' files, without a digest, are taken as they are.

    `FileNotFoundError`, or another `OSError` that says why a path cannot be opened;
    `InputError` for a file that is truncated, something else, or not what was written.
    """
    if isinstance(source, (str, os.PathLike)):
        name = _shown(source)
        _check_opens(source, name)
    else:
        name = getattr(source, "name", "the file")
    try:
        tensors, metadata = _read(source)
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{name} cannot be read as safetensors ({error}): "
            "it is truncated or another kind of file"
        ) from None
    expected = metadata.pop(DIGEST, None)
    if expected is not None and expected != _digest(tensors, metadata):
        raise InputError(
            f"{name} is damaged: what it holds is not what was written (its SHA-256 differs)"
        )
    return tensors, metadata


def _read(
    source: str | os.PathLike | BinaryIO,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    "The tensors and the metadata of a file, as they are."
    if not isinstance(source, (str, os.PathLike)):
        data = source.read()
    elif _shown(source) != os.fspath(source):  # safetensors opens UTF-8 paths only
        data = Path(source).read_bytes()
    else:
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
        return load_file(source), metadata
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return load(data), json.loads(header).get("__metadata__", {})


def _shown(path: str | os.PathLike) -> str:
    "A path as messages show it: bytes that are not UTF-8 are escaped."
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _check_opens(path: str | os.PathLike, name: str):
    "Say why a path cannot be opened: safetensors calls every such file damaged or missing."
    if os.path.isdir(path):
        raise InputError(f"{name} is a folder; a safetensors file is needed")
    try:
        open(path, "rb").close()
    except FileNotFoundError:
        wanted = "a safetensors file is needed"
        raise FileNotFoundError(f"{name} does not exist; {wanted}") from None
    except ValueError as error:  # such as a zero byte
        raise InputError(f"{name!r} is not the path of a file: {error}") from None


def check_weights(
    weights: Mapping[str, torch.Tensor],  # by name
    shapes: Mapping[str, tuple],  # name -> shape, of the weights that the model needs
    path: str | os.PathLike,  # named in the message, beside its config.json
):
    "`InputError` if weights and model disagree; it names the first tensor that differs."
    for prefix, wrapper in WRAPPERS.items():
        if any(name.startswith(prefix) for name in weights):
            raise InputError(
                f"{path} has tensors whose names begin with {prefix!r}: they "
                f"were saved from {wrapper}'s wrapper; save the model inside it"
            )
    for name, shape in shapes.items():
        if name not in weights:
            raise InputError(f"{path} has no tensor {name!r}, which its config.json calls for")
        found, format = tuple(weights[name].shape), weights[name].dtype
        if found != shape:
            raise InputError(
                f"{path}: {name} has the shape {found}, but config.json calls for {shape}"
            )
        if format not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise InputError(
                f"{path}: {name} is in {str(format).removeprefix('torch.')}; "
                "float16, bfloat16, float32 or float64 is needed"
            )
    extra = sorted(weights.keys() - shapes.keys())
    if extra:
        raise InputError(
            f"{path} has a tensor {extra[0]!r} that its config.json does not call for"
        )


def is_finite(
    tensor: torch.Tensor,  # of any type
) -> bool:
    "Whether it holds no infinity and no NaN."
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # 8-bit types support few operations
    return bool(tensor.isfinite().all())


def _digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    "The SHA-256 of names, types, shapes and numbers, in hexadecimal."
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_scores(
    largest: torch.Tensor,  # the largest logit of each row
) -> None:
    """`FloatingPointError` where one is not a finite number: such logits cannot be drawn from.

    The maximum of anything and NaN is NaN, so the largest shows every fault."""
    if not largest.isfinite().all():
        wrong = largest[~largest.isfinite()][0].item()
        raise FloatingPointError(
            f"the model's logits cannot be drawn from: the largest is {wrong}. "
            "Do its weights hold NaN, or numbers too large for their format?"
        )
