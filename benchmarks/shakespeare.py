"""Two short runs on a megabyte of real English, beside a recipe that many know.

    python benchmarks/shakespeare.py tinyshakespeare.txt               both runs, one after the other
    python benchmarks/shakespeare.py tinyshakespeare.txt --runs steps

The first 90 % of the characters teach, the last 10 % test, all of them. `steps` makes 2,000 steps of about 12 x 64 characters
each (384 tokens of two bytes). `seconds` has 146 s, the time that nanoGPT's published CPU recipe (12 x 64 characters
a step, 2,000 steps, 0.8 M parameters) took on two cores to come to 1.886 nats, 2.72 bits a character: twenty steps are
timed, and as many planned as fit into 128 s, which leaves time to look at the validation text and for a machine that slows down. A line of JSON for
each run goes to benchmarks/shakespeare.jsonl.
"""
import argparse, json, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lm336.evaluation import environment
from lm336.experiments import Variant, run_variant

PEER = 2.72                     # bits a character, nanoGPT's recipe in 146 s
RUNS = {
    "steps": Variant(
        "2,000 steps of 384 tokens",
        model=dict(vocab_size=512, context_length=64, d_model=256, num_layers=4, num_heads=4),
        training=dict(max_steps=2000, batch_size=6, learning_rate=3e-3, min_learning_rate=1.5e-4, warmup_steps=100, weight_decay=0.1,
                      betas=(0.9, 0.95), eval_interval=250)),
    "seconds": Variant(
        "146 seconds", seconds=128,
        model=dict(vocab_size=512, context_length=128, d_model=192, num_layers=4, num_heads=6),
        training=dict(batch_size=8, learning_rate=4e-3, min_learning_rate=2e-4, weight_decay=0.1, betas=(0.9, 0.98))),
}
LOG = Path(__file__).with_suffix(".jsonl")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="path of the text")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.runs:
        with tempfile.TemporaryDirectory() as cache: record = run_variant(RUNS[name], args.seed, args.text, "cpu", cache)
        score = record["bits_per_byte"]
        print(f"{record['variant']}: {score:.3f} bits a byte in {record['seconds']:.0f} s, {record['steps']:,} steps of "
              f"{record['tokens'] // record['steps']} tokens, {record['parameters']:,} parameters; nanoGPT's recipe: {PEER}", flush=True)
        keys = "bits_per_byte", "steps", "tokens", "seconds", "parameters", "precision", "data", "seed"
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(dict(date=time.strftime("%Y-%m-%d"), task=f"tinyshakespeare, {record['variant']}", library="lm336",
                                      **{key: record[key] for key in keys}, **environment())) + "\n")


if __name__ == "__main__": main()
