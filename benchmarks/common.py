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


def record(
    args: argparse.Namespace,  # of `parse`
    task: str,  # what was measured
    precision: str
    | None = None,  # the number format; None where no floating-point number is computed
    **row,  # what came out
):
    "Append a line to the running script's log, with command and machine, if --record asks."
    if not args.record:
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
