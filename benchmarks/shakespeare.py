"""Two short runs on a megabyte of real English, beside a recipe that many know.

    python benchmarks/shakespeare.py tinyshakespeare.txt         both runs, one after the other
    python benchmarks/shakespeare.py tinyshakespeare.txt --runs steps

The first 90 % of the characters teach, the last 10 % test, all of them. `steps` makes 2,000
steps of about 12 x 64 characters each (384 tokens of two bytes). `seconds` has 146 s, the time
that nanoGPT's published CPU recipe (12 x 64 characters a step, 2,000 steps, 0.8 M parameters)
took on two cores to come to 1.886 nats, 2.72 bits a character: it trains for 138 s by the
clock, which leaves time for the last look at the validation text. --record appends a line for
each run to benchmarks/shakespeare.jsonl.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import common
from lm336.devices import pick_device, pick_precision
from lm336.experiments import Variant, run_variant

MINUTES = {"full": 10, "quick": 1}
PEER = 2.72  # bits a character, nanoGPT's recipe in 146 s
RUNS = {
    "steps": Variant(
        "2,000 steps of 384 tokens",
        model=dict(vocab_size=512, context_length=64, d_model=256, num_layers=4, num_heads=4),
        training=dict(
            max_steps=2000,
            batch_size=6,
            learning_rate=3e-3,
            min_learning_rate=1.5e-4,
            warmup_steps=100,
            weight_decay=0.1,
            betas=(0.9, 0.95),
            eval_interval=250,
        ),
    ),
    "seconds": Variant(
        "146 seconds",
        model=dict(vocab_size=512, context_length=128, d_model=192, num_layers=4, num_heads=6),
        training=dict(
            train_seconds=138,
            batch_size=8,
            learning_rate=4e-3,
            min_learning_rate=2e-4,
            weight_decay=0.1,
            betas=(0.9, 0.98),
        ),
    ),
}


def quickly(
    variant: Variant,
) -> Variant:
    "The same with a small part of its steps or of its time."
    label, part = (
        "50 steps of 384 tokens",
        dict(max_steps=50, warmup_steps=5, eval_interval=25),
    )
    if "train_seconds" in variant.training:
        label, part = "4 seconds", dict(train_seconds=4)
    return replace(variant, label=label, training=variant.training | part)


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument(
        "text",
        nargs="?",
        default=os.environ.get("LM336_TEXT"),
        help="path of the text; default: what the environment variable LM336_TEXT names",
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    args = common.parse(parser)
    if args.text is None:
        common.skip(
            "needs a text: give the path of tinyshakespeare.txt, or set LM336_TEXT to it"
        )
    if not Path(args.text).is_file():
        raise FileNotFoundError(
            f"{args.text} does not exist: a text is needed, such as tinyshakespeare.txt"
        )
    common.announce(args, pick_precision(pick_device()))
    for name in args.runs:
        variant = quickly(RUNS[name]) if args.quick else RUNS[name]
        with tempfile.TemporaryDirectory() as cache:
            found = run_variant(variant, args.seed, args.text, "cpu", cache)
        score = found["bits_per_byte"]
        print(
            f"{variant.label}: {score:.3f} bits a byte in {found['seconds']:.0f} s, "
            f"{found['steps']:,} steps of "
            f"{found['tokens'] // found['steps']} tokens, {found['parameters']:,} parameters; "
            f"nanoGPT's recipe: {PEER}",
            flush=True,
        )
        keys = (
            "bits_per_byte",
            "steps",
            "tokens",
            "seconds",
            "parameters",
            "precision",
        )
        common.record(
            args,
            f"tinyshakespeare, {variant.label}",
            library="lm336",
            data=Path(args.text).name,
            seed=args.seed,
            **{key: found[key] for key in keys},
        )


if __name__ == "__main__":
    common.start(main)
