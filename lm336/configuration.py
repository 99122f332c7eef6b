"""What decides a training run besides its text: its settings, and presets for them. Also the
checks of a sampler's settings.

A configuration that makes no sense is rejected when it is made, not an hour into the run."""

import math
import os
import reprlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .errors import InputError
from .files import PRESET_FOLDER, PRESETS, read_json
from .transformer import TransformerConfig

if TYPE_CHECKING:
    from .generation import SamplingConfig

__all__ = ["PRECISIONS", "PRESETS", "TrainingConfig", "load_preset"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

Config = TypeVar("Config", TransformerConfig, "TrainingConfig")


def is_number(
    value: object,  # anything
) -> bool:
    "Whether it is a finite number that a float can hold; True and False are not."
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


# Kinds of fields. Each returns a dataclass field that carries its own check: `accepts` says
# whether a value is valid, `needs` ends the message about one that isn't.


def _checked(
    default: Any,
    needs: str,
    accepts: Callable[[Any], bool],
) -> Any:
    return field(default=default, metadata={"needs": needs, "accepts": accepts})


def _whole(
    default: int,
    least: int = 1,
    most: int = 10**9,
) -> Any:
    "A field that takes whole numbers."

    def accepts(value):
        if not isinstance(value, Integral) or isinstance(value, bool):
            return False
        return least <= int(value) <= most

    return _checked(default, f"a whole number from {least} to {most:,}", accepts)


def _number(
    default: float,
    zero: bool = False,  # whether 0 is valid, too
) -> Any:
    "A field that takes finite numbers above 0."

    def accepts(value):
        return is_number(value) and (value > 0 or (zero and value == 0))

    needs = f"a finite number {'of at least' if zero else 'above'} 0"
    return _checked(default, needs, accepts)


def _number_or_none() -> Any:
    "A field that takes None, its default, or a finite number above 0."

    def accepts(value):
        return value is None or (is_number(value) and value > 0)

    return _checked(None, "a finite number above 0 or None", accepts)


def _choice(
    choices: tuple[str, ...],  # the first is the default
) -> Any:
    "A field that takes one of several names."

    def accepts(value):
        return isinstance(value, str) and value in choices

    return _checked(choices[0], f"one of {', '.join(choices)}", accepts)


def _decay_rates(
    default: tuple[float, float],
) -> Any:
    "A field that takes two numbers, each from 0 to below 1."

    def accepts(value):
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return False
        return all(is_number(rate) and 0 <= rate < 1 for rate in value)

    return _checked(default, "a pair of numbers from 0 to below 1", accepts)


@dataclass
class TrainingConfig:
    """What decides a training run besides its data and its model.

    Checked when made: `InputError` names the field."""

    max_steps: int = _whole(5_000)  # updates in all
    batch_size: int = _whole(32)  # windows of context_length tokens per update
    gradient_accumulation_steps: int = _whole(1)  # micro-batches that one update is split into
    learning_rate: float = _number(5e-4)  # the peak, reached after warmup_steps
    min_learning_rate: float = _number(1e-4, zero=True)  # where the cosine ends, at max_steps
    warmup_steps: int = _whole(500, least=0)  # updates of linear warm-up
    weight_decay: float = _number(0.01, zero=True)  # AdamW's lambda (Loshchilov & Hutter 2019)
    betas: tuple[float, float] = _decay_rates((0.9, 0.95))  # AdamW's decay rates
    max_grad_norm: float = _number(1.0)  # gradients are clipped to this global norm
    precision: str = _choice(PRECISIONS)  # "auto" is what `pick_precision` says
    compile: str = _choice(("auto", "on", "off"))  # torch.compile; "auto": in long runs
    log_interval: int = _whole(10)  # updates per line in metrics.jsonl
    eval_interval: int = _whole(250)  # updates between evaluations on the validation text
    eval_windows: int = _whole(256)  # windows of the validation text in such an evaluation
    save_interval: int = _whole(500)  # updates between checkpoints
    seed: int = _whole(0, least=0, most=2**64 - 1)  # of the initial weights and of the batches
    train_seconds: float | None = _number_or_none()  # for a run that is limited by time

    def __post_init__(self):
        self.check()

    def check(self):
        "`InputError` for the first field that is invalid, alone or together with another."
        for each in fields(self):
            value = getattr(self, each.name)
            if not each.metadata["accepts"](value):
                raise InputError(
                    f"training.{each.name} is {reprlib.repr(value)}: "
                    f"{each.metadata['needs']} is needed"
                )
            if isinstance(value, np.generic):
                setattr(self, each.name, value.item())  # JSON takes Python's numbers only
        self.betas = (self.betas[0], self.betas[1])
        if self.batch_size % self.gradient_accumulation_steps:
            raise InputError(
                f"training.batch_size {self.batch_size} cannot be split into "
                f"{self.gradient_accumulation_steps} equal micro-batches"
            )
        if self.warmup_steps > self.max_steps:
            raise InputError(
                f"training.warmup_steps {self.warmup_steps} is more than max_steps "
                f"{self.max_steps}"
            )
        if self.min_learning_rate > self.learning_rate:
            raise InputError(
                f"training.min_learning_rate {self.min_learning_rate} is more than "
                f"learning_rate {self.learning_rate}: the floor must not be above the peak"
            )


def load_preset(
    name_or_path: str | os.PathLike,  # one of `PRESETS`, or the path of a JSON file
    **overrides: Any,  # fields of the model or the training; None: not given
) -> tuple[str, TransformerConfig, TrainingConfig]:  # the data, and the two configurations
    """The settings of a run, by a preset's name or from a JSON file.

    The file is an object with data, model (`TransformerConfig`'s fields) and training
    (`TrainingConfig`'s). `InputError` names an unknown or missing field."""
    path = Path(name_or_path)
    if name_or_path in PRESETS:
        path = PRESET_FOLDER / f"{name_or_path}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no preset {str(name_or_path)!r}: there are {', '.join(PRESETS)}, "
            "or give the path of a JSON file"
        )
    preset: Any = read_json(path)
    # a run.json has the digests of its files as well
    if set(preset) - {"digests"} != {"data", "model", "training"}:
        raise InputError(f"{path} must be an object with the keys data, model and training")
    data = preset["data"]
    if not isinstance(data, str) or not data or "\0" in data:  # no path has a zero byte
        raise InputError(
            f"{path}: data is {data!r}: the name or the path of a text is needed"
        )
    model = _from_fields(TransformerConfig, preset["model"], f"{path}: model")
    training = _from_fields(TrainingConfig, preset["training"], f"{path}: training")
    changes = {name: value for name, value in overrides.items() if value is not None}
    shape = {each.name for each in fields(model)}
    of_model = {name: changes.pop(name) for name in shape & changes.keys()}
    unknown = changes.keys() - {each.name for each in fields(training)}
    if unknown:
        raise InputError(f"neither the model nor the training has a field {min(unknown)!r}")
    model = _from_fields(TransformerConfig, preset["model"] | of_model, f"{path}: model")
    return data, model, _overridden(training, changes)


def _from_fields(
    kind: type[Config],
    values: object,  # from JSON
    where: str,  # begins the message about a bad one
) -> Config:
    "A configuration from an object in JSON. `InputError` names an unknown or missing field."
    if not isinstance(values, dict):
        raise InputError(
            f"{where} is {values!r}: an object with the fields of {kind.__name__} is needed"
        )
    known = [each.name for each in fields(kind)]
    for key in values:
        if key not in known:
            raise InputError(f"{where} has no field {key!r}: there are {', '.join(known)}")
    try:
        return kind(**values)
    except (TypeError, OverflowError) as error:  # a field is missing; a number fits no float
        raise InputError(f"{where}: {error}") from None


def _overridden(
    config: TrainingConfig,  # the preset's
    changes: dict[str, Any],  # field -> value
) -> TrainingConfig:
    """A configuration with other values.

    Warm-up and floor keep their shares of max_steps and learning_rate."""
    kept = {}
    if is_number(changes.get("max_steps")):
        share = changes["max_steps"] / config.max_steps
        kept["warmup_steps"] = round(config.warmup_steps * share)
    if is_number(changes.get("learning_rate")):
        share = config.min_learning_rate / config.learning_rate
        kept["min_learning_rate"] = changes["learning_rate"] * share
    return TrainingConfig(**asdict(config) | kept | changes)


def check_sampling(
    config: "SamplingConfig",  # just made
) -> None:
    "`InputError` for a setting that makes no sense."
    needed = {}  # of each setting that is wrong
    temperature, top_k = config.temperature, config.top_k
    top_p, min_p = config.top_p, config.min_p
    if not (is_number(temperature) and temperature >= 0):
        needed["temperature"] = "a finite number of at least 0 is needed"
    if not (top_k is None or (is_number(top_k) and top_k >= 1 and top_k % 1 == 0)):
        needed["top_k"] = "a whole number of at least 1 is needed, or None"
    if not (top_p is None or (is_number(top_p) and 0 < top_p <= 1)):
        needed["top_p"] = "a number above 0 and up to 1 is needed, or None"
    if not (min_p is None or (is_number(min_p) and 0 <= min_p <= 1)):
        needed["min_p"] = "a number from 0 to 1 is needed, or None"
    if not (is_number(config.repetition_penalty) and config.repetition_penalty > 0):
        needed["repetition_penalty"] = "a finite number above 0 is needed"
    for name in ("seed", "stop_token"):
        value = getattr(config, name)
        if not (value is None or hasattr(value, "__index__")):
            needed[name] = "a whole number is needed, or None"
    if not all(isinstance(text, str) and text for text in config.stop_strings):
        needed["stop_strings"] = "texts of at least one character are needed"
    for name, words in needed.items():
        raise InputError(f"{name} is {getattr(config, name)!r}: {words}")
