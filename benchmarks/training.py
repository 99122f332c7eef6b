"""Training steps on a CPU, side by side in one run: lm336, a plain PyTorch Llama, and nanoGPT.

    python benchmarks/training.py                              both sizes, without nanoGPT
    python benchmarks/training.py --nanogpt ../nanoGPT         with the GPT of model.py in that folder
    python benchmarks/training.py --size small --compile       with torch.compile as well
    python benchmarks/training.py --size small --variants      lm336 alone: as it ships, and with one thing done otherwise

Every contender lives in a process of its own (so that its peak memory is its own) and takes its turn: round 1 of all, round 2 of
all, ... The table has medians over the rounds, and the same numbers go to training.jsonl, one line for each contender. The
formats are float32 and, where the CPU has instructions for it, bfloat16.
A step is forward, loss, backward, clipping to norm 1 and AdamW; the plain ones use PyTorch's modules, its fused kernels
and its fused AdamW. Share of peak: against this machine's own 2048 x 2048 x 2048 product in the same number format.
"""
import argparse, json, os, shlex, statistics, sys, time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SIZES = {"small":     dict(vocab_size=4096, context_length=128, d_model=256, num_layers=4, num_heads=8, batch_size=32),
         "reference": dict(vocab_size=32_000, context_length=256, d_model=512, num_layers=4, num_heads=16, batch_size=4)}


def lm336_step(shape, precision, compiled, nanogpt):
    "A step as it ships: Trainer's, with its batches, its schedule and all."
    import numpy as np
    from lm336 import Trainer, TrainingConfig, Transformer, TransformerConfig
    from lm336.transformer import flops_per_token
    shape = dict(shape)
    training = TrainingConfig(batch_size=shape.pop("batch_size"), precision=precision, compile="on" if compiled else "off")
    config, folder = TransformerConfig(**shape), TemporaryDirectory()
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=100_000, dtype=np.uint16)
    trainer = Trainer(Transformer(config), tokens, tokens, training, folder.name, device="cpu")
    def step(keep=folder): trainer.train_step()          # the folder lives as long as the step
    return step, training.batch_size * config.context_length, flops_per_token(config)


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


def attention_as_products():
    "Two batched products in place of PyTorch's fused attention."
    from lm336 import attention
    attention.products_are_faster = lambda q, k: True


def q_k_v_apart():
    "q, k and v each by itself: no weights are stacked, no gradients put together."
    from lm336 import attention
    def project(self, x, token_positions=None):
        q, k, v = (self.split_heads(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.rope(q, token_positions), self.rope(k, token_positions), v
    attention.MultiHeadSelfAttention.project = project


def loss_in_larger_chunks():
    "2,048 rows of logits at a time, not 512."
    from lm336 import loss, training
    training.linear_cross_entropy = partial(loss.linear_cross_entropy, chunk_size=2048)


def memory_is_kept():
    "The C library gives no memory back to the system (glibc: M_MMAP_MAX 0, M_TRIM_THRESHOLD 2 GiB)."
    import ctypes
    for what, value in ((-4, 0), (-1, 2**31 - 1)): ctypes.CDLL(None).mallopt(what, value)


def huge_pages():
    "PyTorch asks for pages of 2 MB."
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"


VARIANTS = attention_as_products, q_k_v_apart, loss_in_larger_chunks, memory_is_kept, huge_pages


def worker(connection, threads, steps, change, make, *args):
    "Builds one contender, then runs `steps` steps whenever asked, and answers with seconds a step and peak memory in MB."
    if change: change()
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"          # what compiling costs the first time
    import torch
    from lm336.training import peak_memory
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    step, tokens, flops = make(*args)
    for _ in range(3): step()
    connection.send((tokens, flops, time.perf_counter() - start))
    while connection.recv():
        start = time.perf_counter()
        for _ in range(steps): step()
        seconds = (time.perf_counter() - start) / steps
        connection.send((seconds, peak_memory() / 1e6))


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


def contenders(precisions, nanogpt, compiled):
    "(name, change, step maker, precision, compiled, nanoGPT's folder) of everybody who takes part, none changed."
    makers  = [("lm336", lm336_step, None), ("plain Llama", torch_step, None)]
    makers += [("nanoGPT", torch_step, nanogpt)] if nanogpt else []
    return [(f"{name} {precision}" + " compiled" * on, None, make, precision, on, folder)
            for on in ([False, True] if compiled else [False]) for precision in precisions for name, make, folder in makers]


def variants(precisions):
    "The same for lm336 as it ships, and with one thing done otherwise."
    return [(f"lm336 {precision}" + (f", {change.__name__.replace('_', ' ')}" if change else ""), change, lm336_step, precision, False, None)
            for precision in precisions for change in (None, *VARIANTS)]


def measure(field, shape, threads, rounds, steps):
    "name -> (tokens in a step, operations for a token, seconds to be ready), and name -> (seconds a step, MB) of every round."
    context, pipes, facts, timings = get_context("spawn"), {}, {}, {name: [] for name, *_ in field}
    for name, change, make, *rest in field:
        pipes[name], other = context.Pipe()
        context.Process(target=worker, args=(other, threads, steps, change, make, shape, *rest), daemon=True).start()
        facts[name] = pipes[name].recv()
    for _ in range(rounds):
        for name in timings:
            pipes[name].send(True)
            timings[name].append(pipes[name].recv())
    for pipe in pipes.values(): pipe.send(False)
    return facts, timings


def verdict(speed, shares):
    "What the figures say about the aim, and about what any program could reach here."
    best = {who: max((found, name) for name, found in speed.items() if name.startswith(who))
            for who in ("lm336", "plain Llama", "nanoGPT") if any(name.startswith(who) for name in speed)}
    for who, (found, name) in list(best.items())[1:]:
        print(f"{best['lm336'][1]} is {best['lm336'][0] / found:.2f} times as fast as {name}")
    if "nanoGPT float32" in speed:
        share = shares["nanoGPT float32"]
        print(f"nanoGPT in float32 does {share:.0%} of the float32 products that this machine can: "
              f"in that format nothing that does the same products can be {1 / share:.1f} times as fast as it.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="default: all")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT (the folder with model.py)")
    parser.add_argument("--compile", action="store_true", help="everybody under torch.compile, too")
    parser.add_argument("--variants", action="store_true", help="lm336 with one thing done otherwise, and nobody else")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--log", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    args = parser.parse_args()
    if args.nanogpt and not (args.nanogpt / "model.py").is_file(): parser.error(f"{args.nanogpt} has no model.py")
    import torch
    from lm336.evaluation import environment
    from lm336.training import cpu_has_bfloat16
    torch.set_num_threads(args.threads)
    precisions = ["float32", "bfloat16"] if cpu_has_bfloat16() else ["float32"]
    if len(precisions) == 1:
        print("This CPU has no bfloat16 instructions (neither amx_bf16 nor avx512_bf16 in /proc/cpuinfo): "
              "the bfloat16 contenders stay out, and what they would reach elsewhere cannot be told from here.")
    words = [Path(word).name if i and sys.argv[i - 1] == "--nanogpt" else word for i, word in enumerate(sys.argv)]
    command = shlex.join(["python", "benchmarks/training.py", *words[1:]])             # nanoGPT's folder by its name alone
    field = variants(precisions) if args.variants else contenders(precisions, args.nanogpt, args.compile)
    task  = "variants of training" if args.variants else "training"
    for size in args.size or SIZES:
        before, (facts, timings) = matrix_peak(args.threads, precisions), measure(field, SIZES[size], args.threads, args.rounds, args.steps)
        peaks = {kind: max(peak, before[kind]) for kind, peak in matrix_peak(args.threads, precisions).items()}   # others may have been busy
        print(f"\n{size}: {SIZES[size]}, {args.threads} threads, torch {torch.__version__}; peak of a product: "
              + ", ".join(f"{kind} {peak / 1e9:.0f} GFLOP/s" for kind, peak in peaks.items()))
        print(f"{'':38} {'tokens/s':>9} {'(min, max)':>16} {'GFLOP/s':>8} {'of peak':>8} {'peak MB':>8} {'ready after':>11}")
        speed, shares = {}, {}
        for name, _, _, precision, *_ in field:
            tokens, flops, ready = facts[name]
            speeds = [tokens / seconds for seconds, _ in timings[name]]
            speed[name], memory = statistics.median(speeds), max(memory for _, memory in timings[name])
            shares[name] = speed[name] * flops / peaks[precision]
            print(f"{name:38} {speed[name]:9,.0f} {f'({min(speeds):,.0f}, {max(speeds):,.0f})':>16} {speed[name] * flops / 1e9:8.0f} "
                  f"{shares[name]:8.0%} {memory:8,.0f} {ready:9.1f} s")
            line = dict(date=time.strftime("%Y-%m-%d"), task=f"{task}, {size}", library=name, tokens_per_second=round(speed[name]), rounds=[round(s) for s in speeds],
                        gflops=round(speed[name] * flops / 1e9), share_of_peak=round(shares[name], 3), peak_gflops=round(peaks[precision] / 1e9), peak_mb=round(memory),
                        ready_seconds=round(ready, 1), command=command, **environment())
            with open(args.log, "a", encoding="utf-8") as log: log.write(json.dumps(line) + "\n")
        if not args.variants: verdict(speed, shares)


if __name__ == "__main__": main()
