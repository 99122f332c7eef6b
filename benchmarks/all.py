"""The benchmarks one after the other, each with its minutes beforehand, and a table of them at
the end.

    python benchmarks/all.py                          all, nearly an hour on two cores
    python benchmarks/all.py --quick                  a small part of each, some minutes in all
    python benchmarks/all.py --record                 append the results to the scripts' logs
    python benchmarks/all.py benchmarks/learning.py   this one alone

A script that fails does not stop the others, and one that lacks what it needs says so and is
skipped. The exit status is 1 if one failed. Without --record, the logs stay as they are.
"""

import ast
import subprocess
import sys
import time
from pathlib import Path

import common

NAMES = (
    "learning causes browser training generation shakespeare reference tokenizer"  # the longest last
)
SCRIPTS = [Path(__file__).parent / f"{name}.py" for name in NAMES.split()]


def stated_minutes(
    script: Path,
) -> dict[str, float]:  # "full", "quick"
    "What a script gives as its MINUTES, found without running it."
    for line in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "MINUTES":
            return ast.literal_eval(line.value)
    sys.exit(
        f"all.py: {script} does not say how long it takes: "
        'it needs a line like MINUTES = {"full": 3, "quick": 1}'
    )


def total_minutes(
    scripts: list[Path],
) -> dict[str, float]:
    "Of all these."
    stated = [stated_minutes(script) for script in scripts]
    return {kind: sum(minutes[kind] for minutes in stated) for kind in ("full", "quick")}


def run(
    script: Path,
    flags: list[str],  # passed on
) -> tuple[str, str]:  # "done", "skipped" or "failed", and what there is to say of it
    "Run a script, its output shown as it comes."
    command, last = [sys.executable, "-u", str(script), *flags], ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        for last in process.stdout:
            print(last, end="", flush=True)
    if process.returncode == 0:
        return "done", ""
    if process.returncode == common.SKIPPED:
        return "skipped", last.strip().removeprefix("skipped: ")
    return "failed", f"exit status {process.returncode}"


def main():
    parser = common.options(__doc__, total_minutes(SCRIPTS))
    parser.add_argument("scripts", nargs="*", type=Path, default=SCRIPTS, help="default: all")
    args = common.parse(parser)
    for script in args.scripts:
        if not script.is_file():
            parser.error(f"{script} does not exist")
    flags = [f"--{name}" for name in ("quick", "record") if getattr(args, name)]
    length = "quick" if args.quick else "full"
    minutes = total_minutes(args.scripts)[length]
    print(
        f"About {minutes:g} min on two cores, if all of them can run here. The logs", end=" "
    )
    print("get the results." if args.record else "stay as they are: --record appends to them.")
    results = []
    try:
        for script in args.scripts:
            print(
                f"\n== {script.name}: about {stated_minutes(script)[length]:g} min", flush=True
            )
            start = time.perf_counter()
            results.append((script.name, "interrupted", 0, ""))
            state, remark = run(script, flags)
            results[-1] = script.name, state, (time.perf_counter() - start) / 60, remark
    except KeyboardInterrupt:
        pass  # the table says how far it came
    print(f"\n{'script':16} {'':11} minutes")
    for name, state, taken, remark in results:
        print(f"{name:16} {state:11} {taken:7.1f}  {remark}".rstrip())
    states = {state for _, state, *_ in results}
    if "interrupted" in states:
        sys.exit(130)
    sys.exit(1 if "failed" in states else 0)


if __name__ == "__main__":
    main()
