"""The optimizer and the loss side by side with PyTorch's, in one process.

    python benchmarks/learning.py                 AdamW's step, the head's loss with its gradient, at two sizes
    python benchmarks/learning.py --repeats 20 --threads 1

The contenders take turns, and a figure is the median over the turns. A line of JSON for every figure goes
to benchmarks/learning.jsonl.
"""
import argparse, json, os, shlex, statistics, sys, time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lm336.adamw import AdamW, clip_grad_norm_
from lm336.evaluation import environment
from lm336.loss import linear_cross_entropy
from lm336.training import cpu_has_bfloat16
from lm336.transformer import TransformerConfig, parameter_shapes

SIZES = {
    "small": dict(vocab_size=4096, context_length=128, d_model=256, num_layers=4, num_heads=8),
    "reference": dict(vocab_size=32_000, context_length=256, d_model=512, num_layers=4, num_heads=16, d_ff=1344),
}
LOG = Path(__file__).with_suffix(".jsonl")


def take_turns(functions, repeats):
    "name -> seconds of each turn, after one round that does not count."
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter(); function()
            if turn: seconds[name].append(time.perf_counter() - start)
    return seconds


def optimizers(config):
    "name -> a step on parameters of its own, all alike."
    def steps(make):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in parameter_shapes(config).values()]
        for p in params: p.grad = torch.randn_like(p)
        return make(params).step
    theirs = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
    return {"PyTorch fused": steps(partial(theirs, fused=True)), "lm336": steps(partial(AdamW, lr=1e-4)),
            "lm336 loop": steps(partial(AdamW, lr=1e-4, fused=False)), "PyTorch foreach": steps(partial(theirs, foreach=True)),
            "PyTorch loop": steps(partial(theirs, foreach=False, fused=False))}


def clippers(config):
    "name -> clipping of gradients of its own, all alike."
    def clip(function):
        params = [torch.nn.Parameter(torch.empty(shape)) for shape in parameter_shapes(config).values()]
        for p in params: p.grad = torch.randn_like(p)
        return lambda: function(params, 1.0)
    return {"PyTorch clip": clip(torch.nn.utils.clip_grad_norm_), "lm336 clip": clip(clip_grad_norm_)}


def losses(config, tokens, dtype):
    "name -> the head's loss and its gradients."
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, config.d_model, requires_grad=True), torch.nn.Parameter(0.05 * torch.randn(config.vocab_size, config.d_model))
    targets = torch.randint(config.vocab_size, (tokens,))
    def run(function):
        hidden.grad = weight.grad = None
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32): function().backward()
    found = {"PyTorch whole": partial(run, lambda: F.cross_entropy(hidden @ weight.T, targets))}
    for chunk_size in (512, 4096): found[f"lm336 chunks of {chunk_size}"] = partial(run, lambda chunk_size=chunk_size: linear_cross_entropy(hidden, weight, targets, chunk_size))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--tokens", type=int, default=2048, help="in the loss")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice if not given")
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    where, dtypes = environment(), [torch.float32]
    if cpu_has_bfloat16(): dtypes.append(torch.bfloat16)
    else: print("This CPU has no bfloat16 instructions (neither amx_bf16 nor avx512_bf16 in /proc/cpuinfo): the loss is measured in float32 alone.")
    command = shlex.join(["python", "benchmarks/learning.py", *sys.argv[1:]])
    print("  ".join(f"{key} {value}" for key, value in where.items()))
    print(f"medians of {args.repeats} turns; speed relative to the first line of each group\n")
    for size in args.sizes:
        config = TransformerConfig(**SIZES[size])
        groups = {"AdamW step": optimizers(config), "clipping": clippers(config)}
        groups |= {f"loss {str(dtype)[6:]}": losses(config, args.tokens, dtype) for dtype in dtypes}
        for what, functions in groups.items():
            seconds = take_turns(functions, args.repeats)
            first = statistics.median(next(iter(seconds.values())))
            for who, turns in seconds.items():
                median = statistics.median(turns)
                print(f"{size:10}{what:14} {who:22}{1e3 * median:9.2f} ms {first / median:6.2f}", flush=True)
                with open(LOG, "a", encoding="utf-8") as log:
                    log.write(json.dumps(dict(date=time.strftime("%Y-%m-%d"), task=f"{what}, {size}", library=who, ms=round(1e3 * median, 3), relative_speed=round(first / median, 3),
                                              seconds=[round(s, 5) for s in turns], command=command, load=round(os.getloadavg()[0], 1), **where)) + "\n")


if __name__ == "__main__": main()
