"""The reference run on a GPU, from raw stories to a report: 45 million parameters, 5,000
steps, 41 million tokens of the built-in corpus.

    python benchmarks/reference.py                     on a CUDA GPU; without one it stops
    python benchmarks/reference.py --preset NAME       another preset, on the same corpus
    python benchmarks/reference.py --preset MINE.json  any other run, also on a CPU

The run folder has the curve, the metrics and the report. --record appends one line to
benchmarks/reference.jsonl: the time of training by itself (with its compilation, validations
and checkpoint), tokens/s, and the share of the card's own large product in the same number
format.
"""

import time
from pathlib import Path
from typing import Any

import torch

import common
from lm336 import PRESETS
from lm336.cli import begin_run
from lm336.devices import pick_device, pick_precision
from lm336.files import read_json

MINUTES = {"full": 20, "quick": 1}
# of a preset by its name: the corpus that needs no download, and little besides training
ON_A_GPU: dict[str, Any] = dict(
    data="stories:200", log_interval=50, eval_interval=1000, save_interval=5000
)
QUICK: dict[str, Any] = dict(
    data="stories:5", max_steps=100, eval_interval=50, save_interval=100
)


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(time.strftime("runs/reference-%Y%m%d-%H%M%S")),
        help="the run folder",
    )
    parser.add_argument(
        "--preset", default="tinystories_t4", help=f"{', '.join(PRESETS)} or a JSON file"
    )
    args = common.parse(parser)
    if args.preset in PRESETS and not torch.cuda.is_available():
        common.skip("needs a CUDA GPU: the reference run would take a CPU a day or so")
    common.announce(args, pick_precision(pick_device()))
    changes = ON_A_GPU if args.preset in PRESETS else {}
    score, _ = begin_run(args.preset, args.out, **changes | (QUICK if args.quick else {}))
    run = read_json(args.out / "accounting.json")
    tokens_per_second = run["tokens"] / run["seconds"]
    share_of_peak = run["flops"] / run["seconds"] / run["product_speed"]
    common.record(
        args,
        f"training run, {Path(args.preset).stem}",
        run["precision"],
        library="lm336",
        tokens_per_second=round(tokens_per_second),
        seconds=run["seconds"],
        share_of_peak=round(share_of_peak, 3),
        peak_gflops=round(run["product_speed"] / 1e9),
        peak_mb=round(run["peak_bytes"] / 1e6),
        compiled=run["compiled"],
        skipped=run["skipped"],
        bits_per_byte=round(score.bits_per_byte, 5),
        floor=score.floor,
    )
    print(
        f"{score}\n{run['seconds']:.1f} s of training, {tokens_per_second:,.0f} tokens/s, "
        f"{share_of_peak:.0%} of a large product's speed; the run is in {args.out}"
    )


if __name__ == "__main__":
    common.start(main)
