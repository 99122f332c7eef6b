"""Generation side by side: lm336 against Hugging Face `generate`, the same weights, prompts
and number format, in one process.

    python benchmarks/generation.py                 two sizes, batch 1 and 32, greedy and top-k
    python benchmarks/generation.py --sizes small --precision float32 --repeats 9

The contenders take turns, and a figure is the median over the turns. Both hold their weights
in float32 and then, where the processor has instructions for it, in bfloat16. Greedy ids are
compared in float32; in bfloat16 the two round in different places. --record appends a line for
every figure to benchmarks/generation.jsonl. Hugging Face needs `pip install transformers`;
without it, lm336 is measured alone. The bound is what no program with these weights in this
format can beat: a step has to read every weight once, and to multiply it with every row of
the batch.
"""

import math
import statistics
import tempfile
import time
from functools import partial
from importlib.util import find_spec

import torch

import common
from lm336 import Transformer
from lm336.accounting import matmul_speed
from lm336.fast_generation import pick_product, product_seconds
from lm336.fast_model import make_fast
from lm336.generation import SamplingConfig, generate_stream
from lm336.interop import to_hf
from lm336.tokenizer import Tokenizer
from lm336.transformer import TransformerConfig, parameter_count

MINUTES = {"full": 10, "quick": 1}


def hugging_face(model):
    "The same weights as a LlamaForCausalLM."
    from transformers import LlamaForCausalLM

    tokenizer = Tokenizer(
        {i: bytes([i]) for i in range(256)}, []
    )  # `to_hf` wants one; here it is not used
    with tempfile.TemporaryDirectory() as folder:
        to_hf(model, tokenizer, folder)
        return LlamaForCausalLM.from_pretrained(folder).eval()


def lm336_generates(model, prompts, new_tokens, sampling):
    "A function that returns the new ids, (batch, count), and one that stops at the first."
    config = SamplingConfig(**sampling)

    def whole():
        rows = model.generate(prompts, new_tokens, **sampling)
        return [row[len(prompts[0]) :] for row in rows]

    def first():
        return next(generate_stream(model, prompts, new_tokens, config))

    return whole, first


def hugging_face_generates(model, prompts, new_tokens, sampling):
    "The same two functions."
    ids = torch.tensor(prompts)
    greedy = sampling["temperature"] == 0
    settings = dict(do_sample=False) if greedy else dict(do_sample=True, **sampling)

    def generate(count):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            use_cache=True,
            **settings,
        )
        return out[:, ids.shape[1] :].tolist()

    return partial(generate, new_tokens), partial(generate, 1)


def shortest_step(config, batch, precision):
    """Milliseconds that the weights of one step take to read, or to multiply at the speed of a
    large product: whichever is more."""
    count = parameter_count(config) - config.vocab_size * config.d_model  # less a table
    size = getattr(torch, precision).itemsize
    words = torch.randn(count * size // 4)  # in 16 bits, two weights are one word to read

    def seconds_to_read():
        start = time.perf_counter()
        words.sum()
        return time.perf_counter() - start

    reading = min(seconds_to_read() for _ in range(20))
    return 1e3 * max(reading, 2 * batch * count / matmul_speed(words.device, precision))


def picked_layout(config, batch, precision):
    "The name of the layout that lm336 picks for its weights, and the figures it goes by."
    figures = []

    def seconds(layouts, *product):
        taken = product_seconds(layouts, *product)
        figures.extend(
            f"{layout.__name__} {1e6 * each:.0f} us" for layout, each in zip(layouts, taken)
        )
        return taken

    layout = pick_product(
        torch.device("cpu"),
        getattr(torch, precision),
        batch,
        (2 * config.d_ff, config.d_model),
        seconds,
    )
    return layout.__name__, ", ".join(figures)


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=list(common.SIZES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["float32", "bfloat16"],
        help="of the weights; both if not given, where the processor has bfloat16",
    )
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    args = common.parse(parser, sizes=["small"], new_tokens=32, repeats=1)
    if args.threads:
        torch.set_num_threads(args.threads)
    versions = {}
    if find_spec("transformers"):
        import transformers

        transformers.logging.set_verbosity_error()
        versions["transformers"] = transformers.__version__
    else:
        print("transformers is not installed: lm336 is measured alone")
    precisions = args.precision or common.cpu_precisions()
    common.announce(args, " and ".join(precisions), **versions)
    print(
        f"prompt of {args.prompt_tokens} tokens, {args.new_tokens} new ones, "
        f"medians of {args.repeats} turns\n"
    )
    print(
        f"{'precision':10}{'size':10}{'batch':>6} {'sampling':9} {'':13}"
        f"{'tokens/s':>9} {'ms/step':>8} {'bound':>6} {'first ms':>9} "
        f"{'ratio':>6}  ids",
        flush=True,
    )
    for size in args.sizes:
        for precision in precisions:
            measure_size(args, size, precision, versions)


def measure_size(args, size, precision, versions):
    "Measure a model of this size with its weights in this format."
    torch.manual_seed(0)
    model = make_fast(Transformer(TransformerConfig(**common.SIZES[size])).eval())
    hf = hugging_face(model).to(getattr(torch, precision)) if versions else None
    model.to(getattr(torch, precision))
    for batch in args.batch:
        prompts = torch.randint(model.config.vocab_size, (batch, args.prompt_tokens)).tolist()
        layout, figures = picked_layout(model.config, batch, precision)
        print(
            f"{precision}, {size}, batch {batch}: the weights are laid out for {layout}, "
            f"{f'of {figures}' if figures else 'which is not measured here'}",
            flush=True,
        )
        for name, sampling in (
            ("greedy", dict(temperature=0)),
            ("top-k 40", dict(temperature=0.8, top_k=40)),
        ):
            field = {"lm336": lm336_generates(model, prompts, args.new_tokens, sampling)}
            if hf is not None:
                field["Hugging Face"] = hugging_face_generates(
                    hf, prompts, args.new_tokens, sampling
                )
            what = dict(size=size, batch=batch, sampling=name, precision=precision)
            compare(args, what, model.config, field, {"layout": layout}, versions)


def compare(args, what, config, field, ours, versions):
    "Measure the contenders in turn, and print and record a row for each."
    size, batch, sampling, precision = what.values()
    ids = "not compared"
    if sampling == "greedy" and precision == "float32" and len(field) > 1:
        mine, theirs = (whole() for whole, _ in field.values())
        ids = "equal" if mine == theirs else "DIFFERENT"
    bound = shortest_step(config, batch, precision)
    whole = common.take_turns(
        {who: function for who, (function, _) in field.items()}, args.repeats
    )
    first = common.take_turns(
        {who: function for who, (_, function) in field.items()}, args.repeats
    )
    medians = {who: statistics.median(seconds) for who, seconds in whole.items()}
    for who, seconds in medians.items():
        row = dict(
            tokens_per_second=batch * args.new_tokens / seconds,
            ms_per_step=1e3 * seconds / args.new_tokens,
            bound_ms=bound,
            first_token_ms=1e3 * statistics.median(first[who]),
        )
        if "Hugging Face" in medians:
            row["times_hugging_face"] = medians["Hugging Face"] / seconds
        print(
            f"{precision:10}{size:10}{batch:6} {sampling:9} {who:13}"
            f"{row['tokens_per_second']:9,.0f} {row['ms_per_step']:8.2f} "
            f"{bound:6.2f} {row['first_token_ms']:9.1f} "
            f"{row.get('times_hugging_face', math.nan):6.2f}  {ids}",
            flush=True,
        )
        common.record(
            args,
            f"generation, {size}, batch {batch}, {sampling}",
            precision,
            library=who if precision == "float32" else f"{who} {precision}",
            parameters=parameter_count(config),
            prompt_tokens=args.prompt_tokens,
            new_tokens=args.new_tokens,
            **{name: round(value, 3) for name, value in row.items()},
            seconds=[round(s, 4) for s in whole[who]],
            **(ours if who == "lm336" else {}),
            **versions,
        )


if __name__ == "__main__":
    common.start(main)
