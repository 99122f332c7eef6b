"""What people look at in a run: its curve, its samples, its account, its report card.

What is shown is read from the run's folder, so that it can be shown again at any time."""

import io
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from .accounting import (
    counted_flops,
    environment,
    flops_per_token,
    matmul_speed,
    process_memory,
)
from .causes import Judgement, gap_by_cause, judge, token_causes
from .corpus import iter_documents
from .dataset import batch_at, load_tokens
from .devices import pick_device
from .errors import InputError
from .evaluation import Evaluation, below_floor, entropy_floor, evaluate, token_losses
from .files import atomic_path, read_json, write_json
from .generation import SamplingConfig, generate, generate_stream
from .oracle import Oracle
from .run_folder import check_digests, load_run, read_metrics
from .runs import Run
from .tokenizer import Tokenizer
from .transformer import Transformer, TransformerConfig, parameter_count

__all__ = [
    "account_table",
    "evaluate_run",
    "judge_stories",
    "plot_metrics",
    "png",
    "show_curve",
    "stories_table",
    "write_account",
    "write_curve",
    "write_report",
    "write_samples",
]

# ---------------------------------------------------------------- the curve


def plot_metrics(
    folder: str | os.PathLike,  # the run folder
    floor: float | None = None,  # entropy of the text in nats per token, if known
    title: str = "",  # above the axes
) -> Figure:
    "Training and validation loss, in nats per token, and the learning rate, at every step."
    lines = read_metrics(folder)

    def series(name: str) -> tuple[list[int], list[float]]:
        "Steps, and what was measured at each."
        there = [line for line in lines if name in line]
        return [line["step"] for line in there], [line[name] for line in there]

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    rates = axes.twinx()
    rates.plot(*series("learning_rate"), color="0.6", lw=1, ls="--")
    rates.set(ylabel="learning rate (dashed)", ylim=(0, None))
    axes.plot(*series("loss"), label="training", lw=1, alpha=0.7)
    axes.plot(*series("valid_loss"), label="validation", marker="o", ms=4)
    if floor is not None:
        label = f"entropy of the text, {floor:.3f}"
        axes.axhline(floor, color="k", ls=":", label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    axes.legend()
    return figure


def png(
    figure: Figure,  # any
) -> bytes:
    "A figure as a PNG file."
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def write_curve(
    run: Run,  # that has measured something
):
    "Draw loss.png, from the metrics file alone, so that it can be redrawn at any time."
    with atomic_path(run.folder / "loss.png") as path:
        path.write_bytes(png(plot_metrics(run.folder, run.floor)))


def show_curve(
    run: Run,  # in a notebook
):
    "Draw the curve below the cell, in place of the one that this run drew before."
    from IPython.display import Image, display

    title = f"step {run.step:,}, {run.speed():,.0f} tokens/s"
    if run.update.skipped:
        title += f", {run.update.skipped} updates skipped"
    picture = Image(png(plot_metrics(run.folder, run.floor, title)), width=640)
    if run.picture:
        run.picture.update(picture)
    else:
        run.picture = display(picture, display_id=True)


# ---------------------------------------------------------------- the samples


def write_samples(
    model: Transformer,  # the trained model
    tokenizer: Tokenizer,  # its tokenizer
    path: str | os.PathLike,  # where the sheet goes, Markdown
    prompts: Sequence[str],  # each is continued once; an empty one starts a new document
    max_new_tokens: int = 400,  # at most, per sample
    temperature: float = 0.8,  # of the samples
) -> list[str]:  # the texts, prompt included
    "A sheet of samples: each prompt continued until the end of text, with seeds 0, 1, 2, ..."
    end = tokenizer.end_of_text_id
    texts = []
    for seed, prompt in enumerate(prompts):
        start = tokenizer.encode(prompt)
        if not start:
            start = [0 if end is None else end]
        config = SamplingConfig(temperature, seed=seed, stop_token=end)
        new = generate_stream(model, start, max_new_tokens, config, tokenizer)
        continuation = "".join(token.text for token in new if token.id != end)
        texts.append((prompt + continuation).strip())
    head = f"# Samples\n\nTemperature {temperature}, seeds 0 to {len(texts) - 1}.\n\n"
    with atomic_path(path) as temporary:
        temporary.write_text(head + "\n\n---\n\n".join(texts) + "\n", encoding="utf-8")
    return texts


# ---------------------------------------------------------------- the account

_NUMBERS = (
    "tokens",
    "flops",
    "seconds",
    "product_speed",
    "peak_bytes",
    "predicted_peak_bytes",
)
_OTHERS = {
    "device": (str, "text"),
    "precision": (str, "text"),
    "compiled": (bool, "true or false"),
}


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < 1e300


def _read_account(path: Path) -> dict[str, Any]:
    "What accounting.json holds; `InputError` names the first value that cannot be used."
    record: dict[str, Any] = {"predicted_peak_bytes": None, "compiled": False}
    record.update(read_json(path))
    without = "without the file, a report has no account"
    for name in _NUMBERS:
        value = record.get(name)
        if value is None and name == "predicted_peak_bytes":
            continue  # is predicted for a CPU only
        if not _is_positive(value):
            raise InputError(f"{path}: {name} must be a number above 0; {without}")
    for name, (kind, words) in _OTHERS.items():
        if not isinstance(record.get(name), kind):
            raise InputError(f"{path}: {name} must be {words}; {without}")
    return record


def write_account(
    run: Run,  # that has trained
):
    "Write accounting.json: what the run should have taken since `fit` began, and did take."
    c, shape = run.config, run.model.config
    steps = run.step - run.first_step
    tokens = steps * c.batch_size * run.context_length
    # one window, which needs little memory, counts for all
    window = batch_at(run.train_tokens, 1, run.context_length, c.seed, 0, run.device)
    counted = counted_flops(lambda: run.batch_loss(*window), run.model.parameters())
    record: dict[str, Any] = dict(
        device=run.device.type,
        precision=run.precision,
        compiled=run.compiled,
        tokens=tokens,
        flops=flops_per_token(shape) * tokens,
        counted_flops=counted * steps * c.batch_size,
        seconds=round(run.seconds - run.first_seconds, 2),
        peak_bytes=run.peak_memory(),
        skipped=int(run.update.skipped),
        product_speed=round(matmul_speed(run.device, run.precision)),
    )
    if run.device.type == "cpu":
        micro_batch = c.batch_size // (c.gradient_accumulation_steps * run.num_processes)
        in_16_bits = run.precision != "float32"
        parts = process_memory(shape, micro_batch, in_16_bits, run.program)
        there_before = 4 * parameter_count(shape)  # is in `program`, too
        record["predicted_peak_bytes"] = sum(parts.values()) - there_before
    write_json(run.folder / "accounting.json", record)


def account_table(
    folder: str | os.PathLike,  # the run folder
) -> str:  # Markdown, "" if the run wrote no accounting.json
    """Operations, time and memory of a run: predicted and measured.

    `InputError` for an accounting.json that cannot be used."""
    path = Path(folder) / "accounting.json"
    if not path.is_file():
        return ""
    record = _read_account(path)
    fastest = record["product_speed"]
    speed = record["flops"] / record["seconds"]
    predicted = ""
    if record["predicted_peak_bytes"] is not None:
        predicted = f"{record['predicted_peak_bytes'] / 1e6:,.0f} MB"
    peak = f"{record['peak_bytes'] / 1e6:,.0f} MB"
    shortest = f"{record['flops'] / fastest:,.0f} s at that speed"
    rows = [
        ("tokens", f"{record['tokens']:,}", ""),
        ("operations in matrix products", f"{record['flops']:.2e}", ""),
        (
            "operations per second",
            f"{fastest:.2e} (one large product)",
            f"{speed:.2e}, {speed / fastest:.0%} of it",
        ),
        ("time", shortest, f"{record['seconds']:,.0f} s"),
        ("peak memory of the process", predicted, peak),
    ]
    compiled = ", compiled" if record["compiled"] else ""
    trained = f"Trained on a {record['device'].upper()} in {record['precision']}{compiled}."
    head = "| | predicted | measured |\n|---|---|---|"
    body = "\n".join(f"| {name} | {before} | {after} |" for name, before, after in rows)
    return f"{trained}\n\n{head}\n{body}"


# ---------------------------------------------------------------- what the perfect reader says


def _judged(
    model: Transformer, tokenizer: Tokenizer, oracle: Oracle, count: int
) -> Iterator[tuple[str, Judgement]]:
    "Stories of a model at temperature 1, nothing cut off, each with what the grammar says."
    end = tokenizer.end_of_text_id
    config = SamplingConfig(seed=0, stop_token=end)
    for row in generate(model, [[end]] * count, 400, config, tokenizer):
        ended = row[-1] == end
        text = tokenizer.decode(row[1 : -1 if ended else None])
        yield text, judge(oracle, tokenizer, text, ended)


def judge_stories(
    folder: str | os.PathLike,  # the run folder
    model: Transformer,  # trained on the built-in stories
    tokenizer: Tokenizer,  # its tokenizer
    tokens: np.ndarray,  # (num_tokens,) of built-in stories, each with its end
    num_samples: int = 32,  # how many texts are generated
    num_tokens: int = 5_000,  # about how many of the tokens tell the causes of the gap
) -> None:
    "Write stories.json: which samples the grammar can tell, and what the gap is made of."
    oracle, end = Oracle(), tokenizer.end_of_text_id
    [*samples] = _judged(model, tokenizer, oracle, num_samples)
    told, repeated = {text for text, one in samples if one.told}, 0
    train = Path(folder) / "data" / "train.txt"
    if train.is_file() and told:
        repeated = len(told.intersection(iter_documents(train)))
    some = np.asarray(tokens[:num_tokens])
    ends = np.flatnonzero(some == end)
    some = some[: ends[-1] + 1] if len(ends) else some
    of_oracle = oracle.token_bits(tokenizer, some)
    excess = token_losses(model, some, end) / np.log(2) - of_oracle
    gap = gap_by_cause(excess, of_oracle, token_causes(oracle.grammar, tokenizer, some))
    record = dict(
        samples=num_samples,
        told=sum(one.told for _, one in samples),
        different=len(told),
        new=len(told) - repeated if train.is_file() else None,
        left_at=Counter(one.cause for _, one in samples if not one.told),
        gap={name: round(share, 6) for name, share in gap.items()},
    )
    write_json(Path(folder) / "stories.json", record)


def stories_table(
    folder: str | os.PathLike,  # the run folder
) -> str:  # Markdown, "" where the run has no stories.json
    "What `judge_stories` found, in words."
    path = Path(folder) / "stories.json"
    if not path.is_file():
        return ""
    record: Any = read_json(path)
    told, new = record["told"], record["new"]
    said = f"Of {record['samples']} samples, the grammar can tell {told}"
    if told:
        said += f", {record['different']} of them different"
        said += "" if new is None else f" and {new} of these not in the training text"
    wrong = sorted(record["left_at"].items(), key=lambda item: -item[1])
    if wrong:
        places = ", ".join(f"{name} {count}" for name, count in wrong)
        said += f". The others leave it at: {places}"
    rows = "\n".join(f"| {name} | {share:.2%} |" for name, share in record["gap"].items())
    table = f"| what decides a token | share of the entropy |\n|---|--:|\n{rows}"
    gap = f"The gap to the perfect reader, {sum(record['gap'].values()):.2%}:"
    return f"{said}.\n\n{gap}\n\n{table}"


# ---------------------------------------------------------------- the report card


def write_report(
    folder: str | os.PathLike,  # the run folder
    run: dict[str, Any],  # run.json
    score: Evaluation,  # of the whole validation file
    config: TransformerConfig,  # the model's
    texts: list[str],  # samples, of which the first two are shown
) -> None:
    """The report card, report.md: score, curve, samples, account, environment.

    `InputError` for an accounting.json that cannot be used."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "python -m lm336")
    facts = {
        "parameters": f"{parameter_count(config):,}",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([program, *map(shlex.quote, sys.argv[1:])]),
    } | environment()
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    parts = [
        f"# {Path(folder).absolute().name}",
        f"Trained on {run['data']}. On the whole validation file: {score}.",
    ]
    alarm = below_floor(score)
    if alarm:
        parts.append(f"**{alarm}**")
    parts += ["![loss](loss.png)", "## Samples", "\n\n---\n\n".join(texts[:2])]
    stories = stories_table(folder)
    if stories:
        parts += ["## The perfect reader", stories]
    account = account_table(folder)
    if account:
        parts += ["## Accounting", account]
    described = {name: value for name, value in run.items() if name != "digests"}
    parts += [
        "## Environment",
        f"| what | value |\n|---|---|\n{table}",
        "## Configuration",
        f"```json\n{json.dumps(described, indent=1)}\n```\n",
    ]
    with atomic_path(Path(folder) / "report.md") as path:
        # a folder may be called anything
        path.write_text("\n\n".join(parts), encoding="utf-8", errors="replace")


def evaluate_run(
    folder: str | os.PathLike,  # the run folder
    prompts: Sequence[str] = ("", "", "", ""),  # of the sample sheet
    device: str | torch.device | None = None,  # a GPU where there is one, else "cpu"
) -> tuple[Evaluation, list[str]]:  # the score of the whole validation file, and the samples
    """Score a run on its whole validation file; write its samples.md and report.md, and where
    it tells the built-in stories with less than twice their entropy, stories.json.

    Everything is read before anything is computed, so that a file that cannot be used is named
    at once. Errors as `load_run`."""
    folder = Path(folder)
    run, model, tokenizer = load_run(folder, pick_device() if device is None else device)
    check_digests(folder, run, "data/valid.npy", "data/valid.txt")
    tokens = load_tokens(folder / "data" / "valid.npy", tokenizer.vocab_size)
    account_table(folder)
    floor = entropy_floor(run["data"], folder / "data" / "valid.txt")
    score = evaluate(model.float(), tokens, tokenizer, floor, progress=True)
    texts = write_samples(model, tokenizer, folder / "samples.md", prompts)
    if score.gap is not None and score.gap < 1:  # one that is worse tells no stories
        judge_stories(folder, model, tokenizer, tokens)
    write_report(folder, run, score, model.config, texts)
    return score, texts
