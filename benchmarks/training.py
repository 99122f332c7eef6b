"""Training steps on a CPU, side by side in one run: lm336, a plain PyTorch Llama, and nanoGPT.

    python benchmarks/training.py                           both sizes, without nanoGPT
    python benchmarks/training.py --nanogpt ../nanoGPT      with the GPT of model.py in there
    python benchmarks/training.py --size small --compile    with torch.compile as well
    python benchmarks/training.py --size small --variants   one thing at a time done otherwise

Every contender lives in a process of its own (so that its peak memory is its own) and takes
its turn: round 1 of all, round 2 of all, ... The table has medians over the rounds, and
--record appends the same numbers to benchmarks/training.jsonl, one line for each contender.
The formats are float32 and, where the CPU has instructions for it, bfloat16. A step is
forward, loss, backward, clipping to norm 1 and AdamW; the plain ones use PyTorch's modules,
its fused kernels and its fused AdamW. Share of peak: against this machine's own 2048 x 2048 x
2048 product in the same number format.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import common
from memory import peak_bytes

MINUTES = {"full": 4, "quick": 1}
SIZES = {
    "small": common.SIZES["small"] | dict(context_length=128, batch_size=32),
    "reference": common.SIZES["reference"] | dict(context_length=256, batch_size=4),
}


# How a step is made: each maker returns the step, its tokens, and the operations for a token.


def lm336_step(shape, precision, compiled):
    "A step as it ships: a run's, with its batches, its schedule and all."
    import numpy as np

    from lm336 import Run, TrainingConfig, Transformer, TransformerConfig
    from lm336.accounting import flops_per_token

    shape = dict(shape)
    compile_mode = "on" if compiled else "off"
    training = TrainingConfig(
        batch_size=shape.pop("batch_size"), precision=precision, compile=compile_mode
    )
    config = TransformerConfig(**shape)
    folder = TemporaryDirectory()
    tokens = np.random.default_rng(0).integers(
        config.vocab_size, size=100_000, dtype=np.uint16
    )
    trainer = Run(Transformer(config), tokens, tokens, training, folder.name, device="cpu")

    def step(keep=folder):  # the folder lives as long as the step
        trainer.train_step()

    return step, training.batch_size * config.context_length, flops_per_token(config)


def plain_llama(shape):
    "The same model as one writes it with torch.nn: interleaved RoPE, fused attention."
    import torch
    from torch import nn
    from torch.nn import functional as F

    d, num_heads = shape["d_model"], shape["num_heads"]
    d_ff = max(64, round(d * 8 / 3 / 64) * 64)
    linear = partial(nn.Linear, bias=False)
    frequencies = 10_000.0 ** (-torch.arange(0, d // num_heads, 2) / (d // num_heads))
    angles = torch.outer(torch.arange(shape["context_length"]), frequencies)
    cos, sin = angles.cos(), angles.sin()

    def rotate(x):
        x1, x2 = x[..., 0::2], x[..., 1::2]
        return (
            torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1).flatten(-2).type_as(x)
        )

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
            self.q, self.k, self.v, self.o = (linear(d, d) for _ in range(4))
            self.w1, self.w3, self.w2 = linear(d, d_ff), linear(d, d_ff), linear(d_ff, d)

        def forward(self, x):
            h = self.norm1(x)
            q, k, v = (
                layer(h).unflatten(-1, (num_heads, -1)).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
            h = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            x = x + self.o(h.transpose(1, 2).flatten(2))
            h = self.norm2(x)
            return x + self.w2(F.silu(self.w1(h)) * self.w3(h))

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(shape["vocab_size"], d)
            self.blocks = nn.Sequential(*(Block() for _ in range(shape["num_layers"])))
            self.norm, self.head = nn.RMSNorm(d, eps=1e-5), linear(d, shape["vocab_size"])

        def forward(self, ids, targets):
            logits = self.head(self.norm(self.blocks(self.embed(ids))))
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    model = Llama()
    return model, model


def nanogpt_model(folder, shape):
    "nanoGPT's GPT, and a function from ids and targets to its loss."
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig

    model = GPT(
        GPTConfig(
            block_size=shape["context_length"],
            vocab_size=shape["vocab_size"],
            n_layer=shape["num_layers"],
            n_head=shape["num_heads"],
            n_embd=shape["d_model"],
            dropout=0.0,
            bias=False,
        )
    )
    return model, lambda ids, targets: model(ids, targets)[1]


def torch_step(make_model, shape, precision, compiled):
    "A step of the plain Llama or of nanoGPT."
    import torch

    model, loss_of = make_model(shape)
    if compiled:
        loss_of = torch.compile(loss_of)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(
        0, shape["vocab_size"], (shape["batch_size"], shape["context_length"] + 1)
    )

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    # nanoGPT's wte is its head too, and stays
    tables = [p for name, p in model.named_parameters() if "embed" in name or "wpe" in name]
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - sum(
        p.numel() for p in tables
    )
    attention = 4 * shape["num_layers"] * shape["context_length"] * shape["d_model"]
    return step, ids[:, 1:].numel(), 3 * (2 * matrices + attention)


# What --variants does otherwise. -------------------------------------------------------------


def attention_as_products():
    "Two batched products in place of PyTorch's fused attention."
    from lm336 import fast_model

    fast_model.products_are_faster = lambda q, k: True


def q_k_v_apart():
    "q, k and v each by itself: no weights are stacked, no gradients put together."
    from lm336 import fast_model

    def project(self, x, token_positions=None):
        q, k, v = (
            self.split_heads(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.rope(q, token_positions), self.rope(k, token_positions), v

    fast_model.FastAttention.project = project


def loss_in_larger_chunks():
    "2,048 rows of logits at a time, not 512."
    from lm336 import fast_training

    in_chunks = partial(fast_training.linear_cross_entropy, chunk_size=2048)
    fast_training.linear_cross_entropy = in_chunks


def memory_is_kept():
    "The C library gives no memory back (glibc: M_MMAP_MAX 0, M_TRIM_THRESHOLD 2 GiB)."
    import ctypes

    for what, value in ((-4, 0), (-1, 2**31 - 1)):
        ctypes.CDLL(None).mallopt(what, value)


def huge_pages():
    "PyTorch asks for pages of 2 MB."
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"


VARIANTS = (
    attention_as_products,
    q_k_v_apart,
    loss_in_larger_chunks,
    memory_is_kept,
    huge_pages,
)


# Who takes part. -----------------------------------------------------------------------------


@dataclass
class Contender:
    "Who takes part, and how its step is made."

    name: str  # in the log; ends with its number format, and "compiled" where it is
    make: Callable  # (shape, precision, compiled) -> step, its tokens, operations for one
    precision: str
    compiled: bool = False
    change: Callable[[], None] | None = None  # called before anything is made


def contenders(precisions, nanogpt, compiled):
    "Everybody, none changed."
    makers = {"lm336": lm336_step, "plain Llama": partial(torch_step, plain_llama)}
    if nanogpt:
        makers["nanoGPT"] = partial(torch_step, partial(nanogpt_model, nanogpt))
    field = [
        Contender(f"{name} {kind}", make, kind)
        for kind in precisions
        for name, make in makers.items()
    ]
    if compiled:
        field += [
            Contender(f"{one.name} compiled", one.make, one.precision, compiled=True)
            for one in field
        ]
    return field


def variants(precisions):
    "lm336 as it ships, and with one thing done otherwise."
    field = []
    for kind in precisions:
        field.append(Contender(f"lm336 {kind}", lm336_step, kind))
        for change in VARIANTS:
            name = f"lm336 {kind}, {change.__name__.replace('_', ' ')}"
            field.append(Contender(name, lm336_step, kind, change=change))
    return field


# Measuring. ----------------------------------------------------------------------------------


def worker(connection, threads, steps, one, shape):
    """Builds one contender, then runs `steps` steps whenever asked, and answers with seconds a
    step and peak memory in MB."""
    if one.change:
        one.change()
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = (
        "1"  # what compiling costs the first time
    )
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    step, tokens, flops = one.make(shape, one.precision, one.compiled)
    for _ in range(3):
        step()
    connection.send((tokens, flops, time.perf_counter() - start))
    while connection.recv():
        start = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - start) / steps
        connection.send((seconds, peak_bytes() / 1e6))


def matrix_peak(threads, precisions):
    "FLOP/s of a large product, by number format: the best of several."
    import torch

    torch.set_num_threads(threads)
    peaks = {}
    for precision in precisions:
        a, b = torch.randn(2, 2048, 2048).to(getattr(torch, precision))
        times = []
        for _ in range(20):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        peaks[precision] = 2 * 2048**3 / min(times)
    return peaks


def answer(connection, name):
    "What a worker sends."
    try:
        return connection.recv()
    except EOFError:
        sys.exit(
            f"training.py: {name} ended before it was measured; what it printed stands above"
        )


def measure(field, shape, threads, rounds, steps):
    """name -> (tokens in a step, operations for a token, seconds to be ready), and
    name -> (seconds a step, MB) of every round."""
    context, pipes, facts = get_context("spawn"), {}, {}
    for one in field:
        pipes[one.name], other = context.Pipe()
        context.Process(
            target=worker, args=(other, threads, steps, one, shape), daemon=True
        ).start()
        other.close()  # the worker holds the only one, so that its end is noticed
        facts[one.name] = answer(pipes[one.name], one.name)
        print(f"  {one.name}: ready after {facts[one.name][2]:.1f} s", flush=True)
    timings = {name: [] for name in pipes}
    for turn in range(1, rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            timings[name].append(answer(pipe, name))
            print(
                f"  round {turn} of {rounds}, {name}: "
                f"{facts[name][0] / timings[name][-1][0]:,.0f} tokens/s",
                flush=True,
            )
    for pipe in pipes.values():
        pipe.send(False)
    return facts, timings


def verdict(speed, shares):
    "What the figures say about the aim, and about what any program could reach here."
    best = {}
    for who in ("lm336", "plain Llama", "nanoGPT"):
        found = [
            (tokens_per_second, name)
            for name, tokens_per_second in speed.items()
            if name.startswith(who)
        ]
        if found:
            best[who] = max(found)
    ours, our_name = best.pop("lm336")
    for theirs, name in best.values():
        print(f"{our_name} is {ours / theirs:.2f} times as fast as {name}")
    if "nanoGPT float32" in speed:
        share = shares["nanoGPT float32"]
        print(
            f"nanoGPT in float32 does {share:.0%} of the float32 products that this machine "
            "can: in that format nothing that does the same products can be "
            f"{1 / share:.1f} times as fast as it."
        )


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--size", choices=SIZES, action="append", help="default: all")
    parser.add_argument(
        "--nanogpt", type=Path, help="a checkout of nanoGPT (the folder with model.py)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="everybody under torch.compile, too"
    )
    parser.add_argument(
        "--variants",
        action="store_true",
        help="lm336 with one thing done otherwise, and nobody else",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = common.parse(parser, size=["small"], rounds=1, steps=1)
    if args.nanogpt and not (args.nanogpt / "model.py").is_file():
        parser.error(f"{args.nanogpt} has no model.py")
    import torch

    torch.set_num_threads(args.threads)
    precisions = common.cpu_precisions()
    common.announce(args, " and ".join(precisions))
    field = (
        variants(precisions)
        if args.variants
        else contenders(precisions, args.nanogpt, args.compile)
    )
    task = "variants of training" if args.variants else "training"
    for size in args.size or SIZES:
        print(f"\n{size}: {SIZES[size]}", flush=True)
        before = matrix_peak(args.threads, precisions)
        facts, timings = measure(field, SIZES[size], args.threads, args.rounds, args.steps)
        after = matrix_peak(args.threads, precisions)
        peaks = {
            kind: max(before[kind], after[kind]) for kind in precisions
        }  # others may have been busy
        print(
            "peak of a product: "
            + ", ".join(f"{kind} {peak / 1e9:.0f} GFLOP/s" for kind, peak in peaks.items())
        )
        print(
            f"{'':38} {'tokens/s':>9} {'(min, max)':>16} {'GFLOP/s':>8} {'of peak':>8} "
            f"{'peak MB':>8} {'ready after':>11}"
        )
        speed, shares = {}, {}
        for one in field:
            tokens, flops, ready = facts[one.name]
            speeds = [tokens / seconds for seconds, _ in timings[one.name]]
            median, memory = (
                statistics.median(speeds),
                max(memory for _, memory in timings[one.name]),
            )
            share = median * flops / peaks[one.precision]
            speed[one.name], shares[one.name] = median, share
            print(
                f"{one.name:38} {median:9,.0f} "
                f"{f'({min(speeds):,.0f}, {max(speeds):,.0f})':>16} "
                f"{median * flops / 1e9:8.0f} {share:8.0%} {memory:8,.0f} {ready:9.1f} s",
                flush=True,
            )
            common.record(
                args,
                f"{task}, {size}",
                one.precision,
                library=one.name,
                tokens_per_second=round(median),
                rounds=[round(s) for s in speeds],
                gflops=round(median * flops / 1e9),
                share_of_peak=round(share, 3),
                peak_gflops=round(peaks[one.precision] / 1e9),
                peak_mb=round(memory),
                ready_seconds=round(ready, 1),
            )
        if not args.variants:
            verdict(speed, shares)


if __name__ == "__main__":
    common.start(main)
