"""Every notebook, then every test, although a notebook failed; both results last.

    python .ci/run_tests.py [--workers 2] [--tests PYTEST_ARGUMENT ...]
"""

import argparse
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTEST = ["-q", "-rs", "--timeout", "600", "--durations", "10"]


def run(command: list[str]) -> tuple[bool, list[str]]:
    """Run a command in the checkout, showing what it says; whether it went well, and its last
    lines."""
    last = deque(maxlen=60)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line.rstrip())
    return process.returncode == 0, list(last)


def notebooks(workers: int) -> tuple[bool, str]:
    "Run every notebook as nbdev does; whether all passed, and that in words."
    start = time.perf_counter()
    tester = str(Path(sys.executable).with_name("nbdev_test"))
    passed, last = run([tester, "--n_workers", str(workers), "--do_print", "--timing"])
    seconds = time.perf_counter() - start
    if passed:
        return True, f"all passed in {seconds:.0f} s"
    listed = [line for line in last if line.startswith("\t") and line.endswith(".ipynb")]
    failed = ", ".join(line.strip() for line in listed)
    if not failed:
        failed = "nbdev_test itself, see above"
    return False, f"FAILED in {seconds:.0f} s: {failed}"


def in_parallel(workers: int) -> list[str]:
    "Arguments for pytest: so many files at a time, the tests of each one after the other."
    return ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []


def tests(workers: int, arguments: list[str]) -> tuple[bool, str]:
    "Run pytest; whether all passed, its last line."
    pytest = [sys.executable, "-m", "pytest", *PYTEST, *in_parallel(workers), *arguments]
    passed, last = run([*pytest, str(ROOT / "tests")])
    said = [line.strip("= ") for line in last if line.strip()]
    summary = said[-1] if said else "pytest said nothing"
    return passed, summary if passed else f"FAILED: {summary}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="notebooks, then test files, at a time"
    )
    parser.add_argument(
        "--tests", nargs=argparse.REMAINDER, default=[], help="further arguments for pytest"
    )
    args = parser.parse_args()
    notebooks_passed, notebooks_said = notebooks(args.workers)
    tests_passed, tests_said = tests(args.workers, args.tests)
    print(f"\nnotebooks: {notebooks_said}\ntests: {tests_said}")
    sys.exit(not (notebooks_passed and tests_passed))


if __name__ == "__main__":
    main()
