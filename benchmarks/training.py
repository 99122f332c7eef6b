"""Training steps on a CPU, side by side in one run: lm336, a plain PyTorch Llama, and nanoGPT.

    python benchmarks/training.py                              both sizes, without nanoGPT
    python benchmarks/training.py --nanogpt ../nanoGPT         with the GPT of model.py in that folder
    python benchmarks/training.py --size small --compile       with torch.compile as well

Every contender lives in a process of its own (so that its peak memory is its own) and takes its turn: round 1 of all, round 2 of
all, ... The table has medians over the rounds, and the same numbers go to training.jsonl, one line for each contender.
A step is forward, loss, backward, clipping to norm 1 and AdamW; the plain ones use PyTorch's modules, its fused kernels
and its fused AdamW. Share of peak: against this machine's own 2048 x 2048 x 2048 product in the same number format.
"""
import argparse, json, os, statistics, sys, time
from multiprocessing import get_context
from pathlib import Path

SIZES = {"small":     dict(vocab_size=4096, context_length=128, d_model=256, num_layers=4, num_heads=8, batch_size=32),
         "reference": dict(vocab_size=32_000, context_length=256, d_model=512, num_layers=4, num_heads=16, batch_size=4)}


def lm336_step(shape, precision, compiled, nanogpt):
    "Our model, our chunked loss, our AdamW, our clipping: what Trainer does in a step."
    import torch
    from lm336.adamw import AdamW, clip_grad_norm_
    from lm336.loss import linear_cross_entropy
    from lm336.transformer import Transformer, TransformerConfig, flops_per_token
    shape = dict(shape)
    batch = shape.pop("batch_size")
    config = TransformerConfig(**shape)
    model = Transformer(config)
    optimizer = AdamW(model.parameters(), lr=1e-4)
    hidden_states = torch.compile(model.hidden_states) if compiled else model.hidden_states
    ids = torch.randint(0, config.vocab_size, (batch, config.context_length + 1))
    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = linear_cross_entropy(hidden_states(ids[:, :-1]), model.lm_head.weight, ids[:, 1:])
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    return step, ids[:, 1:].numel(), flops_per_token(config)


def plain_llama(shape):
    "The same model as one writes it with torch.nn, from memory: interleaved RoPE in real numbers, fused attention."
    import torch
    from torch import nn
    from torch.nn import functional as F
    V, T, d, L, H = (shape[name] for name in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads"))
    f = max(64, round(d * 8 / 3 / 64) * 64)
    linear = lambda i, o: nn.Linear(i, o, bias=False)
    angles = torch.outer(torch.arange(T), 10_000.0 ** (-torch.arange(0, d // H, 2) / (d // H)))
    cos, sin = angles.cos(), angles.sin()

    def rotate(x):
        x1, x2 = x[..., 0::2], x[..., 1::2]
        return torch.stack((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1).flatten(-2).type_as(x)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
            self.q, self.k, self.v, self.o = (linear(d, d) for _ in range(4))
            self.w1, self.w3, self.w2 = linear(d, f), linear(d, f), linear(f, d)
        def forward(self, x):
            h = self.norm1(x)
            q, k, v = (layer(h).unflatten(-1, (H, d // H)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            h = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            x = x + self.o(h.transpose(1, 2).flatten(2))
            h = self.norm2(x)
            return x + self.w2(F.silu(self.w1(h)) * self.w3(h))

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks = nn.Embedding(V, d), nn.Sequential(*(Block() for _ in range(L)))
            self.norm, self.head = nn.RMSNorm(d, eps=1e-5), linear(d, V)
        def forward(self, ids, targets):
            logits = self.head(self.norm(self.blocks(self.embed(ids))))
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Llama()


def nanogpt_model(shape, folder):
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig
    model = GPT(GPTConfig(block_size=shape["context_length"], vocab_size=shape["vocab_size"], n_layer=shape["num_layers"],
                          n_head=shape["num_heads"], n_embd=shape["d_model"], dropout=0.0, bias=False))
    return lambda: model, lambda ids, targets: model(ids, targets)[1]


def torch_step(shape, precision, compiled, nanogpt):
    "A step of the plain Llama, or of nanoGPT where its folder is given."
    import torch
    if nanogpt: get, run = nanogpt_model(shape, nanogpt)
    else: get, run = (lambda model: (lambda: model, model))(plain_llama(shape))
    model, V, T, d, L = get(), *(shape[name] for name in ("vocab_size", "context_length", "d_model", "num_layers"))
    if compiled: run = torch.compile(run)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, V, (shape["batch_size"], T + 1))
    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"): loss = run(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    tables = [p for name, p in model.named_parameters() if "embed" in name or "wpe" in name]     # nanoGPT's wte is its head too
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - sum(p.numel() for p in tables)
    return step, ids[:, 1:].numel(), 3 * (2 * matrices + 4 * L * T * d)


def worker(connection, make, threads, steps, *args):
    "Builds one contender, then runs `steps` steps whenever asked, and answers with seconds and peak memory."
    import torch
    from lm336.training import peak_memory
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, tokens, flops = make(*args)
    for _ in range(3): step()
    connection.send((tokens, flops))
    while connection.recv():
        start = time.perf_counter()
        for _ in range(steps): step()
        seconds = (time.perf_counter() - start) / steps
        connection.send((seconds, peak_memory() / 1e6))


def matrix_peak(threads):
    "FLOP/s of a large product, by number format: the best of several."
    import torch
    torch.set_num_threads(threads)
    peaks = {}
    for precision in ("float32", "bfloat16"):
        a, b = torch.randn(2, 2048, 2048).to(getattr(torch, precision))
        times = []
        for _ in range(20):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        peaks[precision] = 2 * 2048**3 / min(times)
    return peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="default: all")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT (the folder with model.py)")
    parser.add_argument("--compile", action="store_true", help="the bfloat16 contenders under torch.compile, too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--log", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    args = parser.parse_args()
    if args.nanogpt and not (args.nanogpt / "model.py").is_file(): parser.error(f"{args.nanogpt} has no model.py")
    import torch
    from lm336.evaluation import environment
    torch.set_num_threads(args.threads)
    context, peaks = get_context("spawn"), matrix_peak(args.threads)
    contenders = [("lm336 float32", lm336_step, "float32", False, None), ("lm336 bfloat16", lm336_step, "bfloat16", False, None),
                  ("plain Llama float32", torch_step, "float32", False, None), ("plain Llama bfloat16", torch_step, "bfloat16", False, None)]
    if args.compile: contenders += [("lm336 bfloat16 compiled", lm336_step, "bfloat16", True, None),
                                    ("plain Llama bfloat16 compiled", torch_step, "bfloat16", True, None)]
    if args.nanogpt: contenders += [("nanoGPT float32", torch_step, "float32", False, args.nanogpt),
                                    ("nanoGPT bfloat16", torch_step, "bfloat16", False, args.nanogpt)]
    for size in args.size or SIZES:
        pipes, facts, timings = {}, {}, {name: [] for name, *_ in contenders}
        for name, make, *rest in contenders:
            pipes[name], other = context.Pipe()
            context.Process(target=worker, args=(other, make, args.threads, args.steps, SIZES[size], *rest), daemon=True).start()
            facts[name] = pipes[name].recv()
        for _ in range(args.rounds):
            for name in timings:
                pipes[name].send(True)
                timings[name].append(pipes[name].recv())
        for pipe in pipes.values(): pipe.send(False)
        peaks = {kind: max(peak, peaks[kind]) for kind, peak in matrix_peak(args.threads).items()}     # others may have been busy
        print(f"\n{size}: {SIZES[size]}, {args.threads} threads, torch {torch.__version__}; peak of a product: "
              + ", ".join(f"{kind} {peak / 1e9:.0f} GFLOP/s" for kind, peak in peaks.items()))
        print(f"{'':30} {'tokens/s':>9} {'(min, max)':>16} {'GFLOP/s':>8} {'of peak':>8} {'peak MB':>8}")
        for name, make, precision, *_ in contenders:
            tokens, flops = facts[name]
            speeds = [tokens / seconds for seconds, _ in timings[name]]
            speed, memory = statistics.median(speeds), max(memory for _, memory in timings[name])
            print(f"{name:30} {speed:9,.0f} {f'({min(speeds):,.0f}, {max(speeds):,.0f})':>16} {speed * flops / 1e9:8.0f} "
                  f"{speed * flops / peaks[precision]:8.0%} {memory:8,.0f}")
            line = dict(date=time.strftime("%Y-%m-%d"), task=f"training, {size}", library=name, tokens_per_second=round(speed), rounds=[round(s) for s in speeds],
                        gflops=round(speed * flops / 1e9), share_of_peak=round(speed * flops / peaks[precision], 3), peak_mb=round(memory), **environment())
            with open(args.log, "a", encoding="utf-8") as log: log.write(json.dumps(line) + "\n")


if __name__ == "__main__": main()
