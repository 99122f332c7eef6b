"""What a run shows: the curve of its losses, and the account of what it took."""

import io
import os
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from .accounting import counted_flops, flops_per_token, matmul_speed, process_memory
from .dataset import batch_at
from .files import atomic_path, write_json
from .training import read_metrics
from .transformer import parameter_count

if TYPE_CHECKING:
    from .runs import Run

__all__ = ["plot_metrics", "png", "show_curve", "write_account", "write_curve"]


def plot_metrics(
    folder: str | os.PathLike,  # the run folder
    floor: float | None = None,  # entropy of the text in nats per token
    title: str = "",  # above the axes
) -> Figure:
    "Training and validation loss, in nats per token, and the learning rate, against the step."
    lines = read_metrics(folder)

    def series(key: str) -> tuple[list[int], list[float]]:
        there = [line for line in lines if key in line]
        return [line["step"] for line in there], [line[key] for line in there]

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    rates = axes.twinx()
    rates.plot(*series("learning_rate"), color="0.6", lw=1, ls="--")
    rates.set(ylabel="learning rate (dashed)", ylim=(0, None))
    axes.plot(*series("loss"), label="training", lw=1, alpha=0.7)
    axes.plot(*series("valid_loss"), label="validation", marker="o", ms=4)
    if floor is not None:
        axes.axhline(floor, color="k", ls=":", label=f"entropy of the text, {floor:.3f}")
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
    run: "Run",  # that has measured something
):
    "Draw loss.png, from the metrics file alone, so that it can be redrawn at any time."
    with atomic_path(run.folder / "loss.png") as path:
        path.write_bytes(png(plot_metrics(run.folder, run.floor)))


def show_curve(
    run: "Run",  # in a notebook
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


def write_account(
    run: "Run",  # that has trained
):
    "Write what the run should have taken and what it did, since `fit` began: accounting.json."
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
