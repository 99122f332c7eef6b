"""The reference run on a GPU, from raw stories to a report: 45 million parameters, 5,000 steps, 41 million tokens.

    python benchmarks/reference.py --out runs/reference              on a CUDA GPU; without one it says so and stops
    python benchmarks/reference.py --out runs/x --preset MINE.json   any other run, also on a CPU

The run folder has the curve, the metrics and the report. One line goes to benchmarks/reference.jsonl: the time of training by itself
(with its compilation, validations and checkpoint), tokens/s, and the share of the card's own large product in the same number format.
"""
import argparse, json, shlex, sys, time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lm336.cli import run_preset
from lm336.evaluation import environment

PRESET = HERE / "reference_gpu.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reference"), help="the run folder")
    parser.add_argument("--preset", type=Path, default=PRESET)
    parser.add_argument("--log", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    args = parser.parse_args()
    if args.preset == PRESET and not torch.cuda.is_available():
        print("no CUDA GPU here: the reference run would take a CPU a day or so, and nothing was measured")
        return
    score, _ = run_preset(args.preset, args.out)
    record = json.loads((args.out / "accounting.json").read_text())
    line = dict(date=time.strftime("%Y-%m-%d"), task=f"training run, {args.preset.stem}", library="lm336",
                tokens_per_second=round(record["tokens"] / record["seconds"]), seconds=record["seconds"],
                share_of_peak=round(record["flops"] / record["seconds"] / record["product_speed"], 3),
                peak_gflops=round(record["product_speed"] / 1e9), peak_mb=round(record["peak_bytes"] / 1e6),
                precision=record["precision"], compiled=record["compiled"], skipped=record["skipped"],
                bits_per_byte=round(score.bits_per_byte, 5), floor=score.floor,
                command=shlex.join(["python", "benchmarks/reference.py", *sys.argv[1:]]), **environment())
    with open(args.log, "a", encoding="utf-8") as log: log.write(json.dumps(line) + "\n")
    print(f"{score}\n{line['seconds']:.1f} s of training, {line['tokens_per_second']:,} tokens/s, {line['share_of_peak']:.0%} of a large product's speed")


if __name__ == "__main__": main()
