"What the benchmarks share: options, turns, the lines of their logs, a way to say: not here."

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a clone need not be installed

SKIPPED = 77  # exit status of a script that lacks what it needs
SIZES = {
    "small": dict(vocab_size=4096, context_length=512, d_model=256, num_layers=4, num_heads=8),
    "reference": dict(
        vocab_size=32_000, context_length=512, d_model=512, num_layers=4, num_heads=16
    ),
}


def options(
    doc: str,  # the script's docstring
    minutes: dict[
        str, float
    ],  # about how long it takes on two cores: "full", and "quick" with --quick
) -> argparse.ArgumentParser:  # to which a script adds options of its own
    "The options that all scripts have."
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Takes about {minutes['full']:g} minutes, with --quick {minutes['quick']:g}.",
    )
    parser.set_defaults(minutes=minutes)
    parser.add_argument(
        "--quick", action="store_true", help="a small part, to see it work: no figures to keep"
    )
    parser.add_argument(
        "--record", action="store_true", help="append the results to the log beside the script"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser,  # with all options
    **quick,  # what --quick makes of options that are not given
) -> argparse.Namespace:
    "The options of this call."
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    args = parser.parse_args()
    if args.quick and args.record:
        parser.error("the logs keep whole measurements: give --quick or --record, not both")
    return args


def start(
    main: Callable[[], None],  # the script's
):
    "Run a script. What is wrong with its input is said in one sentence, without a traceback."
    from lm336.errors import InputError

    try:
        main()
    except (InputError, FileNotFoundError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def skip(
    reason: str,  # what is missing, and where it comes from
):
    "Stop: what this script needs is not here."
    print(f"skipped: {reason}", flush=True)
    sys.exit(SKIPPED)


class Calibration(NamedTuple):
    "What the machine does at a moment when this program does nothing else."

    speed: float  # floating-point operations per second in a large product
    others: float  # share of all cores that other programs take


def calibrate() -> Calibration:
    "Look at the machine for half a second."
    import psutil
    import torch

    from lm336.accounting import matmul_speed

    others = psutil.cpu_percent(interval=0.3) / 100
    return Calibration(matmul_speed(torch.device("cpu"), "float32", repeat=20), others)


def disturbance(
    before: Calibration,  # of a measurement
    after: Calibration,
) -> str:  # "" if the machine did nothing else
    "Why what was measured in between is not to be kept."
    slow, fast = sorted((before.speed, after.speed))
    if fast > 1.15 * slow:
        then, now = before.speed / 1e9, after.speed / 1e9
        return f"a product ran at {then:.0f} GFLOP/s before and at {now:.0f} after it"
    others = max(before.others, after.others)
    return f"other programs took {others:.0%} of its cores" if others > 0.1 else ""


def announce(
    args: argparse.Namespace,  # of `parse`
    formats: str,  # the number formats that are measured
    **versions: str,  # of other packages that take part
):
    "Say what is measured on which machine and how long it takes; calibrate for `record`."
    from lm336.accounting import environment

    for key, value in (environment() | versions).items():
        print(f"{key} {value}", end="  ")
    minutes = args.minutes["quick" if args.quick else "full"]
    print(f"\n{formats}; about {minutes:g} min on two cores with the usual options", flush=True)
    if not args.record:
        return
    args.before = calibrate()
    busy = disturbance(args.before, args.before)
    if busy:
        print(f"nothing will be recorded, because the machine is busy: {busy}", flush=True)


def record(
    args: argparse.Namespace,  # of `parse`, after `announce`
    task: str,  # what was measured
    precision: str
    | None = None,  # the number format; None where no floating-point number is computed
    **row,  # what came out
):
    """Append a line to the running script's log, with command and machine, if --record asks.

    Not while the machine is busy: then a sentence says why."""
    if not args.record:
        return
    busy = disturbance(args.before, calibrate())
    if busy:
        print(f"not recorded, because the machine was busy: {busy}", flush=True)
        return
    from lm336.accounting import environment

    script = Path(sys.argv[0]).resolve()
    words = [
        re.sub(r"[^\s=]*/", "", word) for word in sys.argv[1:]
    ]  # files by their names alone
    line = dict(date=time.strftime("%Y-%m-%d"), task=task)
    if precision:
        line["precision"] = precision
    line |= row
    line["command"] = shlex.join(["python", f"benchmarks/{script.name}", *words])
    line["load"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    line |= environment()
    with open(script.with_suffix(".jsonl"), "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def take_turns(
    functions: dict[str, Callable[[], object]],  # by name
    repeats: int,  # turns that count
) -> dict[str, list[float]]:  # seconds of each turn
    """Call the functions in turn, so that whatever else the machine does hits all alike.
    A first round does not count."""
    from tqdm import tqdm

    seconds = {name: [] for name in functions}
    for turn in tqdm(range(repeats + 1), unit="turn", leave=False, disable=None):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def cpu_precisions() -> list[str]:
    "What this processor multiplies in: float32 and, where it has instructions, bfloat16."
    from lm336.accounting import cpu_has_bfloat16

    if cpu_has_bfloat16():
        return ["float32", "bfloat16"]
    print(
        "This processor has no instructions for bfloat16: float32 alone is measured.",
        flush=True,
    )
    return ["float32"]
