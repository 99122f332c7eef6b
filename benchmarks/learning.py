"""The optimizer and the loss side by side with PyTorch's, in one process.

    python benchmarks/learning.py           AdamW's step, clipping, the loss, at two sizes
    python benchmarks/learning.py --repeats 20 --threads 1

The contenders take turns, and a figure is the median over the turns. --record appends a line
for every figure to benchmarks/learning.jsonl.
"""

import statistics
from functools import partial

import torch
import torch.nn.functional as F

import common
from lm336.adamw import AdamW
from lm336.fast_training import FastAdamW, fast_clip_grad_norm_, linear_cross_entropy
from lm336.transformer import TransformerConfig, parameter_shapes

MINUTES = {"full": 2, "quick": 1}


def random_parameters(config):
    "Parameters of a model's shapes with gradients, the same at every call."
    torch.manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape)) for shape in parameter_shapes(config).values()
    ]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def optimizers(config):
    "name -> a step on parameters of its own, all alike."
    ours = partial(FastAdamW, lr=1e-4)
    theirs = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
    makers = {
        "PyTorch fused": partial(theirs, fused=True),
        "lm336": ours,
        "lm336 loop": partial(AdamW, lr=1e-4),
        "PyTorch foreach": partial(theirs, foreach=True),
        "PyTorch loop": partial(theirs, foreach=False, fused=False),
    }
    return {name: make(random_parameters(config)).step for name, make in makers.items()}


def clippers(config):
    "name -> clipping of gradients of its own, all alike."
    return {
        "PyTorch clip": partial(
            torch.nn.utils.clip_grad_norm_, random_parameters(config), 1.0
        ),
        "lm336 clip": partial(fast_clip_grad_norm_, random_parameters(config), 1.0),
    }


def losses(config, tokens, precision):
    "name -> the head's loss and its gradients."
    torch.manual_seed(0)
    hidden = torch.randn(tokens, config.d_model, requires_grad=True)
    weight = torch.nn.Parameter(0.05 * torch.randn(config.vocab_size, config.d_model))
    targets = torch.randint(config.vocab_size, (tokens,))

    def run(loss):
        hidden.grad = weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss().backward()

    def in_chunks(size):
        return partial(run, lambda: linear_cross_entropy(hidden, weight, targets, size))

    return {
        "PyTorch whole": partial(run, lambda: F.cross_entropy(hidden @ weight.T, targets)),
        "lm336 chunks of 512": in_chunks(512),
        "lm336 chunks of 4096": in_chunks(4096),
    }


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=list(common.SIZES))
    parser.add_argument("--tokens", type=int, default=2048, help="in the loss")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    args = common.parse(parser, sizes=["small"], repeats=2)
    if args.threads:
        torch.set_num_threads(args.threads)
    precisions = common.cpu_precisions()
    common.announce(args, " and ".join(precisions))
    print(
        f"medians of {args.repeats} turns; speed relative to the first line of each group\n",
        flush=True,
    )
    for size in args.sizes:
        config = TransformerConfig(**common.SIZES[size])
        groups = [
            ("AdamW step", "float32", optimizers(config)),
            ("clipping", "float32", clippers(config)),
        ]
        groups += [
            (f"loss {kind}", kind, losses(config, args.tokens, kind)) for kind in precisions
        ]
        for what, precision, functions in groups:
            seconds = common.take_turns(functions, args.repeats)
            first = statistics.median(next(iter(seconds.values())))
            for who, turns in seconds.items():
                median = statistics.median(turns)
                print(
                    f"{size:10}{what:14} {who:22}{1e3 * median:9.2f} ms {first / median:6.2f}",
                    flush=True,
                )
                common.record(
                    args,
                    f"{what}, {size}",
                    precision,
                    library=who,
                    ms=round(1e3 * median, 3),
                    relative_speed=round(first / median, 3),
                    seconds=[round(s, 5) for s in turns],
                )


if __name__ == "__main__":
    common.start(main)
