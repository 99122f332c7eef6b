"""What a run's folder says of itself, and whether its files belong together.

run.json holds what a run was trained on, with which settings, and its files' digests."""

import json
import os
import reprlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .configuration import is_number
from .errors import InputError
from .files import read_json, read_json_lines, sha256
from .tokenizer import Tokenizer
from .transformer import Transformer

__all__ = ["check_digests", "load_run", "read_metrics", "read_run", "run_digests"]


def read_run(
    folder: str | os.PathLike,  # a run folder, as `lm336_pretrain` leaves it
) -> dict[str, Any]:  # run.json: data, model, training, and the digests of its files
    """A run's description.

    `InputError` for a folder that is not a run, or whose run.json does not describe one."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is not a run folder: it has no run.json "
            "(lm336_pretrain and lm336_demo make one)"
        )
    run: Any = read_json(path)
    run.setdefault("digests", {})  # runs of version 0.1 have none
    kinds: dict[str, tuple[type, str]] = {
        "data": (str, "the name of a text"),
        "model": (dict, "an object"),
        "training": (dict, "an object"),
        "digests": (dict, "an object"),
    }
    for name, (kind, needed) in kinds.items():
        if not isinstance(run.get(name), kind):
            raise InputError(
                f"{path} does not describe a run: {name} must be there and be {needed}"
            )
    return run


def run_digests(
    folder: str | os.PathLike,  # a run folder
) -> dict[str, str]:  # file -> SHA-256, for run.json
    """The digests of the files that a run begins with: the tokenizer, the tokens, and the
    validation text, from which the entropy floor is computed."""
    names = ["tokenizer.json", "data/train.npy", "data/valid.npy", "data/valid.txt"]
    if not Path(folder, names[-1]).exists():
        names.pop()  # TinyStories has a place of its own
    return {name: sha256(Path(folder) / name) for name in names}


def check_digests(
    folder: str | os.PathLike,  # a run folder
    run: dict[str, Any],  # its description, as `read_run` returns it
    *names: str,  # of files; a missing one is left to its reader to report
):
    "`InputError` for a file that is not the one that the run began with, or wrote."
    for name in names:
        path, expected = Path(folder) / name, run["digests"].get(name)
        if expected is not None and path.exists() and sha256(path) != expected:
            raise InputError(
                f"{path} is not this run's own: its SHA-256 differs from the one in "
                "run.json, so it was changed, damaged, or belongs to another run"
            )


def load_run(
    folder: str | os.PathLike,  # a run folder
    device: str | torch.device = "cpu",  # where the model goes
) -> tuple[dict[str, Any], Transformer, Tokenizer]:  # description, model, its tokenizer
    """Open a run.

    `InputError` if a file is missing, damaged, or from another run."""
    from .fast_model import make_fast

    run = read_run(folder)
    check_digests(folder, run, "tokenizer.json", "model.safetensors")
    model = make_fast(Transformer.from_pretrained(Path(folder), device=device))
    tokenizer = Tokenizer.from_pretrained(folder)
    for name, value in asdict(model.config).items():
        if run["model"].get(name, value) != value:
            raise InputError(
                f"{folder}: {name} is {run['model'][name]!r} in run.json and {value!r} in "
                "config.json: one of the two was changed, or belongs to another run"
            )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the model only "
            f"{model.config.vocab_size:,}: one of the two belongs to another run"
        )
    return run, model, tokenizer


def read_metrics(
    folder: str | os.PathLike,  # the run folder
) -> list[dict]:  # the lines of metrics.jsonl, each with "step"
    """What a run has measured so far.

    A last line cut short by a power cut is left out. `InputError` for a foreign line."""
    path = Path(folder) / "metrics.jsonl"
    lines = read_json_lines(path)
    for line in lines:
        if not isinstance(line.get("step"), int) or isinstance(line["step"], bool):
            raise InputError(
                f"{path} has a line without a step, {json.dumps(line)[:60]}: "
                "remove the line, or move the file away to continue without it"
            )
        for name in ("step", "loss", "valid_loss", "learning_rate", "seconds"):
            value = line.get(name, 0.0)
            if not isinstance(value, float) and not is_number(value):
                raise InputError(
                    f"{path}: {name} is {reprlib.repr(value)} in a line: a number is needed"
                )
    return lines
