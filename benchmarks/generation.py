"""Generation side by side: lm336 against Hugging Face `generate`, the same weights, prompts and number format, in one process.

    python benchmarks/generation.py                        two sizes, batch 1 and 32, greedy and top-k
    python benchmarks/generation.py --sizes small --repeats 9

The contenders take turns, and a figure is the median over the turns. Greedy ids are compared. A line of
JSON for every figure goes to benchmarks/generation.jsonl. Hugging Face needs `pip install transformers`;
without it, lm336 is measured alone. The bound is what no program with these weights in float32 can beat: a step
has to read every weight once, and to multiply it with every row of the batch.
"""
import argparse, json, os, statistics, sys, tempfile, time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lm336 import Transformer
from lm336.evaluation import environment
from lm336.generation import generate_stream
from lm336.interop import to_hf
from lm336.tokenizer import Tokenizer
from lm336.training import matmul_speed
from lm336.transformer import TransformerConfig, parameter_count

from learning import take_turns

SIZES = {
    "small": dict(vocab_size=4096, context_length=512, d_model=256, num_layers=4, num_heads=8),
    "reference": dict(vocab_size=32_000, context_length=512, d_model=512, num_layers=4, num_heads=16, d_ff=1344),
}
LOG = Path(__file__).with_suffix(".jsonl")


def hugging_face(model):
    "The same weights as a LlamaForCausalLM."
    from transformers import LlamaForCausalLM
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])        # `to_hf` wants one; here it is not used
    with tempfile.TemporaryDirectory() as folder:
        to_hf(model, tokenizer, folder)
        return LlamaForCausalLM.from_pretrained(folder).eval()


def contenders(model, hf, prompts, new_tokens, sampling):
    "name -> a function that generates, and one that generates the first token alone. Each returns new ids, (batch, count)."
    greedy = sampling["temperature"] == 0
    ours = dict(max_new_tokens=new_tokens, **sampling)
    def lm336(): return [row[len(prompts[0]):] for row in model.generate(prompts, **ours)]
    def lm336_first(): return next(generate_stream(model, prompts, **ours))
    found = {"lm336": (lm336, lm336_first)}
    if hf is not None:
        ids = torch.tensor(prompts)
        kind = dict(do_sample=False) if greedy else dict(do_sample=True, **sampling)
        def theirs(count=new_tokens):
            out = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, use_cache=True, **kind)
            return out[:, ids.shape[1]:].tolist()
        found["Hugging Face"] = (theirs, lambda: theirs(1))
    return found


def shortest_step(config, batch):
    "Milliseconds that the weights of one step take to read, or to multiply at the speed of a large product, whichever is more."
    weights = torch.randn(parameter_count(config) - config.vocab_size * config.d_model)     # a row of the table is all that is looked up
    def once():
        start = time.perf_counter(); weights.sum()
        return time.perf_counter() - start
    reading = min(once() for _ in range(20))
    return 1e3 * max(reading, 2 * batch * len(weights) / matmul_speed(weights.device, "float32"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice if not given")
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    where = environment()
    try: import transformers; where["transformers"] = transformers.__version__; transformers.logging.set_verbosity_error()
    except ImportError: print("transformers is not installed: lm336 is measured alone")
    print("  ".join(f"{key} {value}" for key, value in where.items()))
    print(f"prompt of {args.prompt_tokens} tokens, {args.new_tokens} new ones, float32, medians of {args.repeats} turns\n")
    print(f"{'size':10}{'batch':>6} {'sampling':9} {'':13}{'tokens/s':>9} {'ms/step':>8} {'bound':>6} {'first ms':>9} {'ratio':>6}  ids")
    for size in args.sizes:
        torch.manual_seed(0)
        model = Transformer(TransformerConfig(**SIZES[size])).eval()
        hf = hugging_face(model) if "transformers" in where else None
        for batch in args.batch:
            bound = shortest_step(model.config, batch)
            prompts = torch.randint(model.config.vocab_size, (batch, args.prompt_tokens)).tolist()
            for name, sampling in (("greedy", dict(temperature=0)), ("top-k 40", dict(temperature=0.8, top_k=40))):
                both = contenders(model, hf, prompts, args.new_tokens, sampling)
                ids = {who: whole() for who, (whole, _) in both.items()} if name == "greedy" and hf is not None else None
                same = "equal" if ids and ids["lm336"] == ids["Hugging Face"] else "" if ids is None else "DIFFERENT"
                whole = take_turns({who: f for who, (f, _) in both.items()}, args.repeats)
                first = take_turns({who: f for who, (_, f) in both.items()}, args.repeats)
                medians = {who: statistics.median(seconds) for who, seconds in whole.items()}
                for who in both:
                    ratio = medians.get("Hugging Face", float("nan")) / medians[who]
                    row = dict(tokens_per_second=batch * args.new_tokens / medians[who], ms_per_step=1e3 * medians[who] / args.new_tokens, bound_ms=bound,
                               first_token_ms=1e3 * statistics.median(first[who]), times_hugging_face=ratio)
                    print(f"{size:10}{batch:6} {name:9} {who:13}{row['tokens_per_second']:9,.0f} {row['ms_per_step']:8.2f} {bound:6.2f} {row['first_token_ms']:9.1f} {ratio:6.2f}  {same}", flush=True)
                    with open(LOG, "a", encoding="utf-8") as log:
                        log.write(json.dumps(dict(date=time.strftime("%Y-%m-%d"), task=f"generation, {size}, batch {batch}, {name}", library=who, parameters=parameter_count(model.config),
                                                  prompt_tokens=args.prompt_tokens, new_tokens=args.new_tokens, **{k: round(v, 3) for k, v in row.items()},
                                                  seconds=[round(s, 4) for s in whole[who]], load=round(os.getloadavg()[0], 1), **where)) + "\n")


if __name__ == "__main__": main()
