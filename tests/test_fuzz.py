"""Files that were damaged at random: every command that reads one ends with a right result,
or with one sentence and nothing lost.

python -m tests.test_fuzz                    500 mutations of each kind, 10 as processes
python -m tests.test_fuzz preset gz          of these kinds alone
LM336_FUZZ=500 pytest tests/test_fuzz.py     as many within the tests
"""

import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lm336.cli import main
from lm336.files import sha256

from .conftest import MODEL, ROOT, TRAINING, sums

NUMBER = int(os.environ.get("LM336_FUZZ", 100))  # mutations of each kind
PROCESSES = int(
    os.environ.get("LM336_FUZZ_PROCESSES", 1)
)  # of these, how many are tried as a process of their own
LEARNED = dict(  # until it ends its texts
    max_steps=150,
    batch_size=8,
    learning_rate=2e-2,
    min_learning_rate=1e-3,
    warmup_steps=5,
    save_interval=75,
    eval_interval=75,
)
REFUSED, RIGHT = "one sentence, nothing lost", "a right result"
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    0.5,
    1e-300,
    1e300,
    10**30,
    -(10**30),
    2**63,
    2**64,
    "",
    "x",
    "stories",
    "\ud800",
    "ü",
    [],
    {},
    [1],
    {"a": 1},
    ["a", "b"],
    "1",
    10**15,
]
WORDS = [
    b"null",
    b"NaN",
    b"Infinity",
    b"-1",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
    b'"',
    b"\\ud83d",
    b"{}",
    b"[]",
    b",",
    b"\x00",
    b"\xff",
    b"\n",
    b"true",
]


def of_bytes(data, rng):
    "A few bytes that are flipped, replaced, left out, doubled, put in or cut off."
    data = bytearray(data)
    at, length = (
        rng.randrange(min(len(data), rng.choice((100, 2000, 10**9)))),
        rng.choice((1, 1, 1, 2, 8, 50)),
    )
    how = rng.randrange(7)
    if how == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        data[at] = rng.randrange(256)
    elif how == 2:
        del data[at : at + length]
    elif how == 3:
        data[at:at] = data[at : at + length]
    elif how == 4:
        data[at:at] = rng.choice(WORDS)
    elif how == 5:
        del data[at:]
    else:
        data[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
    return bytes(data)


def of_json(data, rng):
    "Another value, another name, or none, anywhere in a JSON file or in a line of one."
    lines = data.decode().splitlines(keepends=True)
    if all(line.startswith("{") for line in lines):
        at = rng.randrange(len(lines))
        return "".join([*lines[:at], of_json_value(lines[at], rng), *lines[at + 1 :]]).encode(
            errors="surrogatepass"
        )
    return of_json_value(data.decode(), rng).encode(errors="surrogatepass")


def of_json_value(text, rng):
    value = json.loads(text)
    places, walk = [], [value]
    while walk:
        node = walk.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        walk += [node[key] for key in keys if isinstance(node[key], (dict, list))]
    node, key = rng.choice(places)
    how = rng.randrange(4)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[rng.choice(("x", str(key) + "s", "", "data"))] = node.pop(key)
    else:
        node[key] = rng.choice(ODD)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5) + "\n"


def mutated(data, seed, is_json):
    "A damaged copy of a file's contents, the same for the same seed."
    rng = random.Random(seed)
    choice = rng.random()
    if is_json and choice < 0.5:
        return of_json(data, rng)
    if is_json and choice < 0.53:
        return data.decode().encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = of_bytes(data, rng) if data else data
    return data


@dataclass
class Kind:
    "A kind of file, and the cheapest command that reads it."

    file: str  # in a copy of the home folder
    command: str
    args: list[str]
    rewrites: tuple = ()  # what the command writes where it succeeds
    makes: str = ""  # a folder that it makes
    plain: bool = False  # without digests, as in the first edition: not every damage shows

    @property
    def is_json(self):
        return ".json" in self.file and not self.file.endswith(".gz")


GENERATE = ["run", "--max_new_tokens", "8", "--temperature", "0", "--prompt", "1 and"]
REPORT = ("run/report.md", "run/samples.md", "run/loss.png", "run/metrics.jsonl")
KINDS = {
    "run.json": Kind("run/run.json", "generate", GENERATE),
    "config.json": Kind("run/config.json", "generate", GENERATE),
    "tokenizer.json": Kind("run/tokenizer.json", "generate", GENERATE),
    "tokenizer.json, plain": Kind("run/tokenizer.json", "generate", GENERATE, plain=True),
    "metrics.jsonl": Kind(
        "run/metrics.jsonl", "pretrain", ["--resume", "--out", "run"], REPORT
    ),
    "accounting.json": Kind("run/accounting.json", "evaluate", ["run"], REPORT),
    "preset": Kind(
        "tiny.json",
        "pretrain",
        ["--preset", "tiny.json", "--out", "new", "--max_steps", "1"],
        makes="new",
    ),
    "gz": Kind(
        "text.txt.gz",
        "train_tokenizer",
        ["--input", "text.txt.gz", "--out", "new", "--vocab_size", "270"],
        makes="new",
    ),
    "checkpoint": Kind(
        "run/checkpoints/step_00000150.safetensors",
        "pretrain",
        ["--resume", "--out", "run"],
        REPORT,
    ),
    "checkpoint, plain": Kind(
        "run/checkpoints/step_00000150.safetensors",
        "pretrain",
        ["--resume", "--out", "run"],
        (*REPORT, "run/model.safetensors"),
        plain=True,
    ),
}


def contents(folder):
    "Every file's digest, but for the locks."
    files = (
        path for path in folder.rglob("*") if path.is_file() and path.name != ".lm336.lock"
    )
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def in_process(command, args):
    "Status, output and errors of a command; of a traceback, the status is its text."
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(command, args)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            return traceback.format_exc(), out.getvalue(), err.getvalue()
    if isinstance(status, str):
        return 1, out.getvalue(), err.getvalue() + status + "\n"
    return status or 0, out.getvalue(), err.getvalue()


def as_process(command, args):
    "The same of a process of its own."
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            f"from lm336.cli import main; main({command!r})",
            *args,
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return (
        done.stderr if "Traceback" in done.stderr else done.returncode,
        done.stdout,
        done.stderr,
    )


def result(kind):
    "What must be the same after a right answer: the words and the numbers, and what was made."
    return (
        {
            name: digest
            for name, digest in contents(Path(kind.makes)).items()
            if name == "tokenizer.json"
        }
        if kind.makes
        else {}
    )


def told(kind, out):
    "Of a command's output, what does not hang on the clock."
    return (
        out
        if kind.command == "generate"
        else [
            line
            for line in out.splitlines()
            if "bits per byte" in line or "tokens, written" in line
        ]
    )


def large(data):
    "Whether a preset asks for more than a test should compute."
    try:
        walk, numbers = [json.loads(data)], []
    except ValueError:
        return False
    while walk:
        node = walk.pop()
        if isinstance(node, (dict, list)):
            walk += node.values() if isinstance(node, dict) else node
        else:
            numbers.append(node)
    return any(
        isinstance(number, (int, float)) and number > 400 for number in numbers
    ) or "stories" in str(json.loads(data))


def outcome(kind, data, run, right):
    "How a command takes a damaged file: REFUSED or RIGHT, else what is wrong with it."
    file, args = Path(kind.file), kind.args
    if kind.file == "tiny.json" and large(data):
        args = [*args, "--data", "nowhere.txt"]  # seen in time, or refused for this
    file.write_bytes(data)
    before = contents(Path())
    status, out, err = run(kind.command, args)
    after = contents(Path())
    made = {name for name in after if kind.makes and name.startswith(kind.makes + "/")}
    kept = (
        before
        if status
        else {name: digest for name, digest in before.items() if name not in kind.rewrites}
    )
    if isinstance(status, str):
        return status
    if any(after.get(name) != digest for name, digest in kept.items()):
        return "a file was changed"
    if (
        status == 0
        and (told(kind, out), result(kind)) != right
        and kind.file != "tiny.json"
        and not kind.plain
    ):
        return f"another result: {told(kind, out)}"
    sentences = [line for line in err.splitlines() if line.startswith("lm336_")]
    if status and (
        status != 1 or len(sentences) != 1 or not err.endswith(sentences[0] + "\n") or made
    ):
        return f"status {status}, made {sorted(made)}, said {err!r}"
    return REFUSED if status else RIGHT


def tried(name, home, number, processes):
    "Outcome -> how many mutations had it; a fault, with the number that makes it again."
    kind, counts, here = KINDS[name], Counter(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(shutil.copytree(home, Path(folder, "here")))
        try:
            if kind.plain:
                without_digests(Path("run"))
            original = Path(kind.file).read_bytes()
            status, out, err = in_process(kind.command, kind.args)
            assert status == 0, (status, err)
            right = told(kind, out), result(kind)
            for seed in range(number):
                for path in kind.rewrites:
                    shutil.copy(Path(home, path), path)
                Path(kind.file).write_bytes(original)
                shutil.rmtree("new", ignore_errors=True)
                data = mutated(original, f"{name} {seed}", kind.is_json)
                run = as_process if seed < processes else in_process
                found = outcome(kind, data, run, right)
                counts[
                    found if found in (REFUSED, RIGHT) else f"mutation {seed}: {found}"
                ] += 1
        finally:
            os.chdir(here)
    return counts


def make_home(folder):
    "A text, also as .gz; a preset; a finished run of a model that ends its texts soon."
    (folder / "sums.txt").write_text(sums(10))
    model, training = MODEL | dict(vocab_size=280), TRAINING | LEARNED
    (folder / "tiny.json").write_text(
        json.dumps(dict(data="sums.txt", model=model, training=training), indent=1)
    )
    (folder / "text.txt.gz").write_bytes(gzip.compress(sums(10).encode(), mtime=0))
    here = os.getcwd()
    os.chdir(folder)
    try:
        status, _, err = in_process(
            "pretrain", ["--preset", "tiny.json", "--out", "run", "--device", "cpu"]
        )
    finally:
        os.chdir(here)
    assert status == 0, (status, err)
    return folder


def without_digests(run):
    "Make it a run of the first edition."
    description = json.loads((run / "run.json").read_text())
    del description["digests"]
    (run / "run.json").write_text(json.dumps(description))
    for path in run.rglob("*.safetensors"):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            kept = {
                name: value
                for name, value in (file.metadata() or {}).items()
                if name != "sha256"
            }
        save_file(tensors, path, kept)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_gives_a_right_result_or_one_sentence(home, name):
    faults = tried(name, home, NUMBER, PROCESSES).keys() - {REFUSED, RIGHT}
    assert not faults, "\n\n".join(sorted(faults))


if __name__ == "__main__":
    number, processes = (
        int(os.environ.get(name, default))
        for name, default in (("LM336_FUZZ", 500), ("LM336_FUZZ_PROCESSES", 10))
    )
    print(f"| file | {REFUSED} | {RIGHT} | wrong |\n|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        made = make_home(Path(place))
        for name in sys.argv[1:] or KINDS:
            counts = tried(name, made, number, processes)
            wrong = sorted(counts.keys() - {REFUSED, RIGHT})
            print(
                f"| {name} | {counts[REFUSED]} | {counts[RIGHT]} | {len(wrong)} |",
                *wrong,
                sep="\n",
                flush=True,
            )
