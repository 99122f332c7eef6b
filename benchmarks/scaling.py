"""The runs of chapter 18: models of six sizes, each trained on five amounts of text, thrice.

    python benchmarks/scaling.py --predict             how long it would take here
    python benchmarks/scaling.py                       sweep, checks of its rule, grid
    python benchmarks/scaling.py --plan "two minutes"  a small version

Each finished run is a line in data/scaling.jsonl. The same command goes on where it was
interrupted: what the log has is not run again, and trunks are kept in runs/scaling. Runs take
hours, two at a time, so `all.py` leaves this script out; give it a machine of its own.
"""

import argparse
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the workers

import common  # noqa: E402

LOG = common.ROOT / "data" / "scaling.jsonl"


def seconds_per_token(plan, width):
    "CPU seconds that training takes for a token, measured over some updates."
    import numpy as np
    import torch

    from lm336.fast_model import make_fast
    from lm336.fast_training import FastAdamW
    from lm336.scaling import learn, model_shape
    from lm336.transformer import Transformer

    torch.set_num_threads(1)
    model = make_fast(Transformer(model_shape(plan, width)))
    optimizer = FastAdamW(model.parameters(), 1e-3)
    tokens = np.random.default_rng(0).integers(plan.vocab_size, size=100_000)
    learn(model, [optimizer], tokens, plan.batch_size, 0, [1.0] * 2)
    begin = time.process_time()
    learn(model, [optimizer], tokens, plan.batch_size, 0, [1.0] * 10)
    return (time.process_time() - begin) / (10 * plan.batch_size * plan.context_length)


def predict(plan, processes):
    "Print how long each size takes, and everything."
    from lm336.scaling import DECAY

    total = 0.0
    for width in plan.widths:
        each = seconds_per_token(plan, width)
        tokens = (1 - DECAY) * max(plan.budgets) + DECAY * sum(plan.budgets)
        grid = plan.seeds * tokens * each
        sweep = len(plan.sweep_rates) * plan.sweep_budget * each
        sweep *= width in plan.sweep_widths
        sweep += 3 * plan.sweep_budget * each * (width in plan.check_widths)
        total += grid + sweep
        print(
            f"width {width:4}: {1e6 * each:6.1f} us a token, grid {grid / 60:5.0f} min of a "
            f"core, sweep {sweep / 60:5.0f}",
            flush=True,
        )
    print(f"in all {total / 60 / processes:.0f} min with {processes} processes")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", default="grid", help="a name in PLANS (default: grid)")
    parser.add_argument("--predict", action="store_true", help="only say how long it takes")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--log", type=Path, default=LOG, help="default: data/scaling.jsonl")
    parser.add_argument("--cache", type=Path, default=common.ROOT / "runs" / "scaling")
    args = parser.parse_args()
    from lm336.scaling import PLANS, run_plan

    if args.predict:
        predict(PLANS[args.plan], args.processes)
    else:
        run_plan(args.plan, args.log, args.cache, args.processes)


if __name__ == "__main__":
    common.start(main)
