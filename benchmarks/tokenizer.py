"""Training and encoding: lm336 beside Hugging Face tokenizers, rustbpe, gigatoken,
tiktoken, and a naive trainer.

    python benchmarks/tokenizer.py                   everything: 2 GB of disk
    python benchmarks/tokenizer.py --tasks small --runs 3
    python benchmarks/tokenizer.py --tasks train encode --corpora source --runs 3
    python benchmarks/tokenizer.py --tasks large     a gigabyte, for its memory

Each measurement is a process of its own (see tokenizer_jobs.py): the time is its whole wall
time, from starting Python to the finished file, the memory its peak and that of a helper
process. The libraries take turns, so that whatever else the machine does hits all alike; the
table has medians. --record appends a line for every run to benchmarks/tokenizer.jsonl. Needs
`pip install rustbpe tokenizers tiktoken gigatoken`; what is not installed is left out.
"""

import compileall
import hashlib
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import unicodedata
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import common
import lm336
from lm336.grammar import write_stories
from lm336.tokenizer import Tokenizer
from tokenizer_jobs import END_OF_TEXT

MINUTES = {"full": 30, "quick": 1}
TASKS = "small", "train", "train32k", "encode", "large"
LARGE = 1_000_000_000  # bytes
PACKAGES = "numpy", "tokenizers", "tiktoken", "rustbpe", "gigatoken", "regex"
TEXT_FILES = ".py", ".pyi", ".txt", ".md", ".rst", ".h", ".hpp", ".js", ".c", ".html"


@dataclass(frozen=True)
class Peer:
    "Who takes part in a comparison."

    name: str  # in the log
    job: str  # a function in tokenizer_jobs.py
    package: str = "lm336"


TRAINERS = (
    Peer("lm336", "train_lm336"),
    Peer("lm336, one process", "train_lm336_alone"),
    Peer("rustbpe", "train_rustbpe", "rustbpe"),
    Peer("huggingface", "train_huggingface", "tokenizers"),
    Peer("gigatoken", "train_gigatoken", "gigatoken"),
)
SMALL_TRAINERS = (TRAINERS[0], *TRAINERS[2:], Peer("naive", "train_naive", "regex"))
ENCODERS = (
    Peer("lm336", "encode_lm336"),
    Peer("lm336, one process", "encode_lm336_alone"),
    Peer("tiktoken", "encode_tiktoken", "tiktoken"),
    Peer("tiktoken, threads", "encode_tiktoken_threads", "tiktoken"),
    Peer("huggingface", "encode_huggingface", "tokenizers"),
    Peer("gigatoken", "encode_gigatoken", "gigatoken"),
)


# What it is measured on. ---------------------------------------------------------------------


def comparable(text):
    "Whether no character is so new that only some of the libraries know it."
    return text.isascii() or all(unicodedata.category(c) != "Cn" for c in set(text))


def source_texts():
    "Program text of this Python's packages and of /usr: every file once, in a fixed order."
    seen = set()
    roots = (
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
        "/usr/lib",
        "/usr/include",
        "/usr/share",
    )
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                if not name.endswith(TEXT_FILES):
                    continue
                try:
                    text = Path(folder, name).read_bytes().decode("utf-8")
                except (OSError, UnicodeDecodeError):
                    continue
                digest = hashlib.sha256(text.encode()).digest()
                usable = (
                    0 < len(text) <= 20_000_000
                    and END_OF_TEXT not in text
                    and comparable(text)
                )
                if usable and digest not in seen:
                    seen.add(digest)
                    yield text


def write_source(path, num_bytes):
    "As many of them as are needed."
    size = 0
    with open(path, "w", encoding="utf-8", newline="") as out:
        for text in source_texts():
            text = text[: num_bytes - size]
            size += len(text.encode()) + len(END_OF_TEXT)
            out.write(text + END_OF_TEXT)
            if size >= num_bytes:
                return


def corpus(name, folder, num_bytes):
    "The path of a text, written if it is not there."
    path = folder / f"{name}-{num_bytes}.txt"
    if not path.exists():
        print(f"\nwriting {num_bytes / 1e6:,.1f} MB of {name}", flush=True)
        unfinished = path.with_suffix(".part")
        if name == "stories":
            write_stories(unfinished, num_bytes, seed=0)
        else:
            write_source(unfinished, num_bytes)
        unfinished.rename(path)
    return path


# Measuring. ----------------------------------------------------------------------------------


def versions(packages):
    "name -> version of what is installed."
    return {name: version(name) for name in packages if find_spec(name)}


def measure(peer, text, argument, out):
    "Wall seconds, CPU seconds and peak megabytes of one process that does a peer's job."
    script = Path(__file__).with_name("tokenizer_jobs.py")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), peer.job, str(text), str(argument), str(out)]
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"tokenizer.py: {peer.name} failed; what it printed stands above")
    return {"seconds": round(seconds, 3), **json.loads(Path(f"{out}.json").read_text())}


def compare(args, title, text, argument, peers, runs, folder):
    "Run all peers `runs` times in turn, print and record every run, and print the medians."
    if not peers:
        return
    megabytes = text.stat().st_size / 1e6
    print(f"\n{title}, {megabytes:,.1f} MB, medians of {runs}", flush=True)
    results = {peer.name: [] for peer in peers}
    for run in range(1, runs + 1):
        for peer in peers:
            result = measure(peer, text, argument, folder / f"{peer.name}.npy")
            results[peer.name].append(result)
            print(f"  run {run}, {peer.name}: {result['seconds']:.2f} s", flush=True)
            common.record(
                args,
                title,
                bytes=text.stat().st_size,
                library=peer.name,
                **result,
                **versions(PACKAGES),
            )

    def median(name, key):
        return statistics.median(result[key] for result in results[name])

    print(
        f"  {'medians':28}{'seconds':>9}{'MB/s':>8}{'times ours':>12}{'CPU s':>9}"
        f"{'peak MB':>9}"
    )
    for name in results:
        seconds = median(name, "seconds")
        ratio = f"{seconds / median('lm336', 'seconds'):.1f}" if "lm336" in results else ""
        print(
            f"  {name:28}{seconds:9.2f}{megabytes / seconds:8.1f}{ratio:>12}"
            f"{median(name, 'cpu_seconds'):9.2f}{median(name, 'peak_mb'):9.0f}",
            flush=True,
        )


def check_same_ids(folder, peers):
    "All peers wrote the same ids, or the script fails."
    ids = [np.load(folder / f"{peer.name}.npy", mmap_mode="r") for peer in peers]
    if not all(np.array_equal(ids[0], other) for other in ids):
        sys.exit("tokenizer.py: the libraries' ids differ")
    print("  all ids are identical", flush=True)


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument(
        "--corpora", nargs="+", default=["stories", "source"], choices=["stories", "source"]
    )
    parser.add_argument("--libraries", nargs="+", help="only these, such as lm336 rustbpe")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=105_000_000, help="size of each corpus")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keeps the corpora; default: a temporary one, removed at the end",
    )
    args = common.parse(parser, tasks=["small", "train", "encode"], runs=1, bytes=3_000_000)
    compileall.compile_dir(
        Path(lm336.__file__).parent, quiet=1
    )  # as pip does with what it installs
    common.announce(args, "whole numbers alone", **versions(PACKAGES))
    packages = {peer.package for peer in (*SMALL_TRAINERS, *ENCODERS)}
    missing = sorted(package for package in packages if not find_spec(package))
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        run_tasks(args, args.folder, missing)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_tasks(args, Path(folder), missing)


def run_tasks(args, folder, missing):
    "The comparisons that were asked for; texts and results go to `folder`."

    def wanted(peers):
        there = [peer for peer in peers if peer.package not in missing]
        return [
            peer for peer in there if args.libraries is None or peer.name in args.libraries
        ]

    if "small" in args.tasks:
        text = corpus("source", folder, 133_000)
        compare(
            args,
            "train, vocabulary 500, source",
            text,
            500,
            wanted(SMALL_TRAINERS),
            args.runs,
            folder,
        )
    for name in args.corpora:
        text = corpus(name, folder, args.bytes)
        for task, size in (("train", 10_000), ("train32k", 32_000)):
            if task in args.tasks:
                title = f"train, vocabulary {size:,}, {name}"
                compare(args, title, text, size, wanted(TRAINERS), args.runs, folder)
        if "encode" in args.tasks:
            trained = folder / name
            Tokenizer.train(text, 10_000).save_pretrained(trained)
            peers = wanted(ENCODERS)
            compare(
                args,
                f"encode, vocabulary 10,000, {name}",
                text,
                trained,
                peers,
                args.runs,
                folder,
            )
            check_same_ids(folder, peers)
    if "large" in args.tasks:
        text = corpus("stories", folder, LARGE)
        compare(
            args,
            "train, vocabulary 10,000, stories",
            text,
            10_000,
            wanted(TRAINERS[:1]),
            1,
            folder,
        )
        trained = folder / "large"
        Tokenizer.train(text, 10_000).save_pretrained(trained)
        compare(
            args,
            "encode, vocabulary 10,000, stories",
            text,
            trained,
            wanted(ENCODERS[:1]),
            1,
            folder,
        )


if __name__ == "__main__":
    common.start(main)
