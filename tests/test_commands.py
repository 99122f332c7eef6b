"The commands as a person meets them: what they do, what they say, and that they lose nothing."

import gzip
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lm336.cli import COMMANDS, main
from lm336.corpus import iter_documents
from lm336.evaluation import token_losses
from lm336.files import PRESETS, owned, sha256
from lm336.grammar import StoryGrammar
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

from .conftest import MODEL, ROOT, TRAINING, sums

SUMS = sums(20)


def command(name, *args):
    "Run a command in this process: its exit status, output and errors."
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(name, [str(arg) for arg in args])
        except SystemExit as end:
            status = end.code
            if isinstance(end.code, str):  # as Python does at its own end
                print(end.code, file=err)
                status = 1
    return status or 0, out.getvalue(), err.getvalue()


def program(*args, stdout: Any = subprocess.PIPE, env=()) -> "subprocess.Popen[bytes]":
    "Start `lm336` as a process of its own."
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | dict(env)
    return subprocess.Popen(
        [sys.executable, "-m", "lm336", *map(str, args)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def succeeds(name, *args):
    "What a command printed that must not fail."
    status, out, err = command(name, *args)
    assert status == 0, err
    return out


def refuses(name, *args):
    "The one sentence of a command that must refuse."
    status, _, err = command(name, *args)
    lines = [line for line in err.strip().splitlines() if line.startswith("lm336_")]
    assert status == 1 and len(lines) == 1 and err.strip().endswith(lines[0]), (status, err)
    return lines[0]


def contents(folder):
    "Every file's digest, but for the lock."
    files = (
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".lm336.lock"
    )
    return {str(path.relative_to(folder)): sha256(path) for path in files}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    "A text, a preset for it, and a finished run."
    folder = tmp_path_factory.mktemp("home")
    (folder / "sums.txt").write_text(SUMS)
    (folder / "tiny.json").write_text(
        json.dumps(dict(data=str(folder / "sums.txt"), model=MODEL, training=TRAINING))
    )
    succeeds("pretrain", "--preset", folder / "tiny.json", "--out", folder / "run")
    return folder


@pytest.fixture
def run(home, tmp_path):
    "A copy of the run, to be spoilt."
    return shutil.copytree(
        home / "run", tmp_path / "run", ignore=shutil.ignore_patterns(".lm336.lock")
    )


@pytest.fixture
def preset(home):
    return home / "tiny.json"


def changed(path, change):
    "Rewrite a JSON file."
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def of_another_text(run, tmp_path):
    "A tokenizer of the same size as the run's, from another text."
    words = (format(number * 7919 % 100_003, "x") for number in range(5000))
    (tmp_path / "other.txt").write_text(" ".join(words))
    size = Tokenizer.from_pretrained(run).vocab_size
    other = Tokenizer.train(tmp_path / "other.txt", size)
    assert other.vocab_size == size
    other.save_pretrained(run)


# What they say of themselves


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option_and_says_what_it_is(name):
    status, out, _ = command(name, "--help")
    assert status == 0 and (COMMANDS[name].__doc__ or "?").splitlines()[0][:20] in out
    for option in [
        line for line in out.split("options:")[1].splitlines() if line.startswith("  --")
    ]:
        assert len(option.split("  ")[-1]) > 3 or option.rstrip().endswith("N"), (
            f"{option}: what is it?"
        )


def test_the_help_names_every_preset(capsys):
    with pytest.raises(SystemExit):
        main("pretrain", ["--help"])
    said = capsys.readouterr().out
    missing = set(PRESETS) - set(re.findall(r"\w+", said))
    assert PRESETS and not missing, f"--help does not name {missing}"


def test_the_program_its_version_and_a_help_that_need_not_wait_for_torch():
    code = "import sys; from lm336.cli import main\n"
    code += "try: main(args=sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    for args, says in (
        (["--version"], "lm336 "),
        (["--help"], "pretrain"),
        (["generate", "--help"], "--max_new_tokens"),
        (["pretrain", "--help"], "--preset"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert (
            done.returncode == 0 and says in done.stdout and done.stdout.endswith("False\n")
        ), done
    done = subprocess.run(
        [sys.executable, "-m", "lm336", "tell"], capture_output=True, text=True, cwd=ROOT
    )
    assert (
        done.returncode == 2 and "pretrain" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    "args",
    [
        ["pretrain"],
        ["generate"],
        ["pretrain", "--out", "x", "--max_steps", "many"],
        ["demo", "--speed", "1"],
    ],
)
def test_a_command_line_that_cannot_be_read(args):
    status, _, err = command(*args)
    assert status == 2 and "usage: lm336_" in err and "error: " in err


# A run, from beginning to end


def test_a_run_and_what_it_says(home, tmp_path):
    status, out, err = command(
        "pretrain", "--preset", home / "tiny.json", "--out", tmp_path / "run"
    )
    assert status == 0, err
    again, before = contents(tmp_path / "run"), contents(home / "run")
    for name in ("model.safetensors", "tokenizer.json", "run.json", "data/valid.npy"):
        assert again[name] == before[name], f"{name} differs between two runs of one preset"
    assert "bits per byte" in out and str(tmp_path / "run" / "report.md") in out
    assert "evaluating: 100%" in err, "the evaluation shows a bar"


def test_options_over_a_preset(home, tmp_path):
    succeeds(
        "pretrain",
        "--preset",
        home / "tiny.json",
        "--out",
        tmp_path / "run",
        "--max_steps",
        16,
        "--batch_size",
        2,
        "--learning_rate",
        0.02,
        "--context_length",
        8,
        "--seed",
        3,
        "--precision",
        "float32",
        "--device",
        "cpu",
    )
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["model"]["context_length"] == 8
    expected = dict(
        max_steps=16,
        batch_size=2,
        learning_rate=0.02,
        seed=3,
        precision="float32",
        warmup_steps=2,
    )
    assert {name: made["training"][name] for name in expected} == expected


def test_a_relative_folder_and_a_file_for_a_preset_name(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeeds(
        "pretrain",
        "--preset",
        "demo_cpu",
        "--data",
        home / "sums.txt",
        "--out",
        "run",
        "--max_steps",
        1,
        "--d_model",
        10,
        "--context_length",
        8,
        "--num_layers",
        1,
        "--vocab_size",
        300,
    )
    assert (tmp_path / "run" / "report.md").read_text().startswith("# run\n")


def test_generate_tells_the_same_story_to_the_same_seed(run):
    first, again, other = (
        succeeds("generate", run, "--seed", seed, "--prompt", "1 and") for seed in (1, 1, 2)
    )
    assert first == again != other and first.startswith("1 and")


@pytest.mark.parametrize(
    "words, wanted",
    [
        ([], torch.float32),
        (["--precision", "bfloat16"], torch.bfloat16),
        (["--precision", "auto"], torch.float16),
    ],
    ids=str,
)
def test_generate_in_a_precision(words, wanted, monkeypatch):
    "The weights that come with the package are stored in float16."
    monkeypatch.setenv("LM336_PRECISION", "float16")  # which `auto` obeys
    formats = []

    def generate_stream(model, *_):
        formats.append({p.dtype for p in model.parameters()})
        return iter(())

    monkeypatch.setattr("lm336.generation.generate_stream", generate_stream)
    succeeds("generate", "stories", "--device", "cpu", *words)
    assert formats == [{wanted}]


def test_a_run_on_a_corpus_that_has_a_place_of_its_own(home, tmp_path, monkeypatch):
    "TinyStories is fetched into a cache, so its texts are not the run's."
    texts = [tmp_path / "cache" / f"{name}.txt" for name in ("train", "valid")]
    texts[0].parent.mkdir()
    for text in texts:
        text.write_text(SUMS)
    monkeypatch.setattr("lm336.download.tinystories", lambda: tuple(texts))
    run = tmp_path / "run"
    options = "--data", "tinystories", "--preset", home / "tiny.json", "--out", run
    succeeds("pretrain", *options)
    digests = json.loads((run / "run.json").read_text())["digests"]
    assert set(digests) >= {"tokenizer.json", "data/train.npy", "data/valid.npy"}
    assert not [name for name in digests if name.endswith(".txt")]
    assert "bits per byte" in succeeds("evaluate", run)


def test_a_prompt_is_not_printed_before_an_error(run):
    status, out, _ = command("generate", run, "--prompt", "1 and", "--max_new_tokens", -1)
    assert (status, out) == (1, "")
    assert succeeds("generate", run, "--prompt", "1 and", "--max_new_tokens", 0) == "1 and\n"


def test_the_model_that_comes_with_it_and_a_folder_of_its_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    story = succeeds("generate", "stories", "--max_new_tokens", 30, "--seed", 0)
    assert len(story.split()) > 10
    shutil.copytree(run, tmp_path / "stories")
    ours = succeeds("generate", "stories", "--max_new_tokens", 30, "--seed", 0)
    assert ours == succeeds("generate", run, "--max_new_tokens", 30, "--seed", 0) != story
    assert (
        "is not a run folder" in refuses("evaluate", "tales")
        and not (tmp_path / "tales").exists()
    )


# Case 01: fewer tokens than asked for


def test_a_text_that_gives_fewer_tokens_than_asked_for(home, tmp_path):
    args = "--data", home / "sums.txt", "--vocab_size", 32_000
    out = succeeds(
        "pretrain", "--preset", home / "tiny.json", "--out", tmp_path / "run", *args
    )
    size = Tokenizer.from_pretrained(tmp_path / "run").vocab_size
    assert (
        size < 3000
        and out.count(f"the text gave {size:,} tokens, but 32,000 were asked for") == 1
    )
    for name in ("run.json", "config.json"):
        values = json.loads((tmp_path / "run" / name).read_text())
        assert values.get("model", values)["vocab_size"] == size, name
    assert (tmp_path / "run" / "samples.md").exists() and (
        tmp_path / "run" / "report.md"
    ).exists()
    for seed in range(5):
        succeeds("generate", tmp_path / "run", "--temperature", 5, "--seed", seed)
    (tmp_path / "run" / "checkpoints" / "step_00000008.safetensors").unlink()
    assert "resumed at step 4" in succeeds("pretrain", "--resume", "--out", tmp_path / "run")
    out = succeeds("train_tokenizer", "--input", home / "sums.txt", "--out", tmp_path / "t")
    size = Tokenizer.from_pretrained(tmp_path / "t").vocab_size
    assert f"the text gave {size:,} tokens, but 32,000 were asked for" in out


def test_a_larger_model_than_its_tokenizer_draws_only_tokens(home, tmp_path):
    "As the runs of the first edition have it."
    run = shutil.copytree(home / "run", tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    for name in ("token_embeddings.weight", "lm_head.weight"):
        weights[name] = weights[name].repeat(20, 1)
    save_file(weights, run / "model.safetensors")
    changed(run / "config.json", lambda values: values.update(vocab_size=6000))
    changed(
        run / "run.json",
        lambda values: (values.pop("digests"), values["model"].update(vocab_size=6000)),
    )
    for seed in range(5):
        succeeds("generate", run, "--seed", seed, "--temperature", 3, "--max_new_tokens", 50)
    succeeds("evaluate", run)


# Case 02: another machine, another number format


def test_a_run_goes_on_where_the_automatic_precision_is_another(home, run, monkeypatch):
    (run / "checkpoints" / "step_00000008.safetensors").unlink()
    monkeypatch.setattr(
        "lm336.accounting.matmul_speed", lambda *args: 1e9
    )  # in float16, it takes a CPU a minute
    for precision in ("float16", "bfloat16", "float32"):
        copy = shutil.copytree(run, run.with_name(precision))
        monkeypatch.setenv("LM336_PRECISION", precision)
        out = succeeds("pretrain", "--resume", "--out", copy)
        assert (
            "resumed at step 4" in out and f"in {precision}" in out and "bits per byte" in out
        )


def test_the_floor_of_a_run_is_in_nats_per_token(tmp_path, monkeypatch):
    "The line under the loss: the stories' own probabilities over the tokens of the test."

    class Enough(Exception):
        pass

    def trainer(model, train, valid, config, folder, device, floor):
        raise Enough(floor * len(valid))

    monkeypatch.setattr("lm336.runs.Run", trainer)
    (tmp_path / "tiny.json").write_text(
        json.dumps(dict(data="stories:0.1", model=MODEL, training=TRAINING))
    )
    with pytest.raises(Enough) as nats:
        command("pretrain", "--preset", tmp_path / "tiny.json", "--out", tmp_path / "run")
    grammar, stories = (
        StoryGrammar(),
        list(iter_documents(tmp_path / "run" / "data" / "valid.txt")),
    )
    assert nats.value.args[0] == pytest.approx(
        -math.log(2) * sum(map(grammar.log2_prob, stories))
    )


# Resuming


@pytest.mark.parametrize(
    "changes, names",
    [
        (["--data", "x"], "--data"),
        (["--tokenizer", "t"], "--tokenizer"),
        (["--preset", "demo_cpu"], "--preset"),
        (["--seed", 3], "--seed"),
        (["--seed", 0], "--seed"),
        (["--overwrite"], "--overwrite"),
        (["--data", "x", "--tokenizer", "y"], "--data and --tokenizer"),
    ],
)
def test_a_run_that_goes_on_takes_nothing_else(run, changes, names):
    before = contents(run)
    assert f"leave out {names}" in refuses("pretrain", "--resume", "--out", run, *changes)
    assert contents(run) == before


def test_a_run_that_has_ended(run):
    (run / "metrics.jsonl").unlink()
    out = succeeds("pretrain", "--resume", "--out", run)
    assert "had already ended, at step 8" in out and "bits per byte" in out


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["truncated", "damaged", "empty", "missing"],
)
def test_a_run_goes_on_from_its_checkpoints_alone(home, run, spoil, ended):
    spoil(run / "model.safetensors")
    (run / "config.json").write_text("{")
    if not ended:
        (run / "checkpoints" / "step_00000008.safetensors").unlink()
    out = succeeds("pretrain", "--resume", "--out", run)
    assert f"resumed at step {8 if ended else 4}" in out and "bits per byte" in out
    for name in "model.safetensors", "config.json", "run.json":
        assert contents(run)[name] == contents(home / "run")[name]


def test_a_run_that_was_begun_and_learned_nothing_is_begun_again(home, run):
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").unlink()
    assert "has no checkpoint to resume from" in refuses("pretrain", "--resume", "--out", run)
    succeeds("pretrain", "--preset", home / "tiny.json", "--out", run)
    assert contents(run)["model.safetensors"] == contents(home / "run")["model.safetensors"]


# Nothing finished is lost


def no_checkpoints(run):
    shutil.rmtree(run / "checkpoints")


def only_a_tokenizer(run):
    for path in run.iterdir():
        if path.name != "tokenizer.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def only_a_text(run):
    for path in run.iterdir():
        if path.name != "data":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "spoil", [lambda run: None, no_checkpoints, only_a_tokenizer, only_a_text]
)
def test_a_run_takes_no_place_that_is_taken(home, run, spoil):
    spoil(run)
    before = contents(run)
    assert "--overwrite" in refuses("pretrain", "--preset", home / "tiny.json", "--out", run)
    assert contents(run) == before
    succeeds(
        "pretrain", "--preset", home / "tiny.json", "--out", run, "--overwrite", "--seed", 5
    )
    assert json.loads((run / "run.json").read_text())["training"]["seed"] == 5
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "step_00000004.safetensors",
        "step_00000008.safetensors",
    }


@pytest.mark.parametrize(
    "data, says",
    [
        ("nowhere.txt", "nowhere.txt"),
        ("latin.txt", "UTF-8"),
        ("run/data/train.txt", "its own text"),
        ("run/data", "its own text"),
        ("short.txt", "short.txt"),
    ],
)
def test_overwriting_begins_when_all_is_ready(home, run, tmp_path, monkeypatch, data, says):
    monkeypatch.chdir(tmp_path)
    Path("latin.txt").write_bytes("Grüße, ".encode("latin-1") * 1000)
    Path("short.txt").write_text("a")
    before = contents(run)
    assert says in refuses(
        "pretrain",
        "--preset",
        home / "tiny.json",
        "--data",
        data,
        "--out",
        "run",
        "--overwrite",
    )
    assert contents(run) == before
    assert "has no checkpoint" not in succeeds("pretrain", "--resume", "--out", "run")


def no_compiler(monkeypatch):
    def compile(function):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch.compile", compile)


def three_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("lm336.devices.process_group", lambda device: (0, 3))


def another_precision(monkeypatch):
    monkeypatch.setenv("LM336_PRECISION", "float8")


def another_library(monkeypatch):
    monkeypatch.setenv("LM336_PRODUCTS", "BLAS")


@pytest.mark.parametrize("name", ["run", "new"])
@pytest.mark.parametrize(
    "spoil, args, says",
    [
        (no_compiler, ["--compile", "on"], "torch.compile does not work here"),
        (three_processes, [], "batch_size 4 cannot be shared by 3 processes"),
        (another_precision, [], "LM336_PRECISION is 'float8'"),
        (another_library, [], "LM336_PRODUCTS is 'BLAS'"),
    ],
)
def test_what_cannot_be_done_here_is_refused_before_a_file_is_touched(
    home, run, monkeypatch, spoil, args, says, name
):
    before = contents(run.parent)
    spoil(monkeypatch)
    args = ["--preset", home / "tiny.json", "--out", run.with_name(name), *args]
    assert says in refuses("pretrain", *args, "--overwrite")
    assert contents(run.parent) == before and [*run.parent.iterdir()] == [run]


@pytest.mark.parametrize("name", ["data", "checkpoints", "loss.png", "metrics.jsonl"])
def test_a_place_that_no_run_can_take_is_refused_before_a_file_is_touched(home, run, name):
    path = run / name
    if path.is_dir():
        path.rename(run / "moved")
        path.write_text("mine")
    else:
        path.unlink()
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    before = contents(run)
    args = "--preset", home / "tiny.json", "--out", run, "--overwrite"
    what = "file" if path.is_file() else "folder"
    assert f"{path} is a {what}" in refuses("pretrain", *args)
    assert contents(run) == before


@pytest.mark.parametrize("moved", range(6))
def test_a_run_whose_files_are_half_there_is_none(home, run, monkeypatch, moved):
    "An error, or Ctrl-C, between two files of the new run; the old one has gone by then."
    real, places = os.replace, []

    def replace(source, target):
        if Path(target).is_relative_to(run) and ".lm336-unfinished-" not in str(target):
            assert not (run / "run.json").exists(), "neither the old run's nor the new one's"
            if len(places) == moved:
                raise OSError(28, "No space left on device", str(target))
            places.append(Path(target))
        real(source, target)

    args = "--preset", home / "tiny.json", "--out", run
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", replace)
        assert "No space left" in refuses("pretrain", *args, "--seed", 5, "--overwrite")
    assert not contents(run), "the same command can begin again"
    assert "is not a run folder" in refuses("pretrain", "--resume", "--out", run)
    succeeds("pretrain", *args)


KILLED = """
import os, sys
from lm336.cli import main
real = os.replace
def replace(source, target):
    if os.path.basename(target) == sys.argv[1] and os.path.dirname(target) == sys.argv[2]:
        os._exit(9)
    real(source, target)
os.replace = replace
main("pretrain", sys.argv[3:])
"""


@pytest.mark.parametrize("name", ["tokenizer.json", "run.json"])
def test_a_run_killed_while_its_files_are_moved_is_none(home, run, name):
    args = "--preset", home / "tiny.json", "--out", run, "--seed", 5
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, *map(str, (run, *args)), "--overwrite"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9, done.stderr
    assert not (run / "run.json").exists() and not [*run.rglob("*.safetensors")]
    resumed = ["pretrain", "--resume", "--out", run]
    for command in ["evaluate", run], ["generate", run], resumed:
        assert "is not a run folder" in refuses(*command)
    assert "--overwrite" in refuses("pretrain", *args)
    succeeds("pretrain", *args, "--overwrite")


@pytest.mark.parametrize("text", [".", "data", "checkpoints"])
def test_a_run_is_not_made_among_its_own_texts(home, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t" / text).mkdir(parents=True, exist_ok=True)
    shutil.copy(home / "sums.txt", tmp_path / "t" / text / "sums.txt")
    before = sorted(tmp_path.rglob("*"))
    for more in [], ["--overwrite"]:
        args = "--preset", home / "tiny.json", "--data", f"t/{text}", "--out", "t", *more
        assert "its own text" in refuses("pretrain", *args)
        assert sorted(tmp_path.rglob("*")) == before, "nothing is written, not even a lock"
    args = "--preset", home / "tiny.json", "--data", f"t/{text}", "--out", "t/run"
    succeeds("pretrain", *args)


def test_what_is_not_a_runs_own_stays(home, run):
    (run / "notes.md").write_text("mine")
    (run / "checkpoints" / "notes.txt").write_text("mine, too")
    succeeds("pretrain", "--preset", home / "tiny.json", "--out", run, "--overwrite")
    assert (run / "notes.md").read_text() == "mine" and (
        run / "checkpoints" / "notes.txt"
    ).read_text() == "mine, too"


def test_a_tokenizer_takes_no_place_that_is_taken(home, run):
    before = contents(run)
    assert "already exists" in refuses(
        "train_tokenizer", "--input", home / "sums.txt", "--out", run
    )
    assert contents(run) == before
    assert "tokens, written to" in succeeds(
        "train_tokenizer",
        "--input",
        home / "sums.txt",
        "--vocab_size",
        280,
        "--out",
        run,
        "--overwrite",
    )
    assert Tokenizer.from_pretrained(run).vocab_size == 280


def test_a_page_takes_no_place_that_is_taken(home, run, tmp_path):
    before = contents(run)
    for more in [], ["--overwrite"]:
        assert "16-bit page" in refuses("web", run, "--out", run, *more)
        assert "16-bit page" in refuses("web", home / "run", "--out", run, *more), (
            "another run's weights"
        )
    assert contents(run) == before
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my site")
    assert "index.html that no export wrote, which would be replaced: give another" in (
        said := refuses("web", run, "--out", tmp_path / "site")
    )
    assert "--overwrite" in said
    assert (tmp_path / "site" / "index.html").read_text() == "my site"
    succeeds("web", run, "--out", tmp_path / "site", "--overwrite")
    assert (tmp_path / "site" / "index.html").read_text() != "my site"


def test_a_page_is_all_that_is_in_its_folder(home, run, tmp_path):
    succeeds("web", run, "--out", tmp_path / "page")
    made = {path.name for path in (tmp_path / "page").iterdir()}
    record = json.loads((tmp_path / "page" / ".lm336-export.json").read_text())
    assert made == {*record, ".lm336-export.json"} and "index.html" in made
    succeeds("web", home / "run", "--out", tmp_path / "page")
    (tmp_path / "page" / "index.html").write_text("mine")
    refuses("web", run, "--out", tmp_path / "page")
    assert {path.name for path in (tmp_path / "page").iterdir()} == made
    with owned(tmp_path / "page"):
        elsewhere = threading.Thread(
            target=lambda: said.append(refuses("web", run, "--out", tmp_path / "page"))
        )
        said = []
        elsewhere.start()
        elsewhere.join()
        assert "in use by another process" in said[0]
        assert (tmp_path / "page" / ".lm336.lock").exists(), "it is its owner's"


# One owner, and files that belong together


def test_a_folder_has_one_owner(home, run):
    held, over = threading.Event(), threading.Event()

    def hold():
        with owned(run):
            held.set()
            over.wait(60)

    owner = threading.Thread(target=hold)
    owner.start()
    held.wait(60)
    before = contents(run)
    try:
        for args in (
            ["pretrain", "--resume", "--out", run],
            ["evaluate", run],
            ["pretrain", "--preset", home / "tiny.json", "--out", run, "--overwrite"],
            ["train_tokenizer", "--input", home / "sums.txt", "--out", run, "--overwrite"],
        ):
            assert "in use by another process" in refuses(*args)
        succeeds("generate", run, "--max_new_tokens", 1)
    finally:
        over.set()
        owner.join()
    assert contents(run) == before
    succeeds("evaluate", run)


def test_another_tokenizer_of_the_same_size_is_noticed(run, tmp_path):
    of_another_text(run, tmp_path)
    before = contents(run)
    for args in (
        ["evaluate", run],
        ["generate", run],
        ["pretrain", "--resume", "--out", run],
        ["web", run, "--out", tmp_path / "page"],
    ):
        assert "tokenizer.json is not this run's own" in refuses(*args)
    assert contents(run) == before


def test_the_weights_of_another_run_are_noticed(run, tmp_path):
    model = Transformer.from_pretrained(run)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    model.save_pretrained(run)
    before = contents(run)
    page = tmp_path / "page"
    for args in (["evaluate", run], ["generate", run], ["web", run, "--out", page]):
        assert "model.safetensors is not this run's own" in refuses(*args)
    assert contents(run) == before


@pytest.mark.parametrize(
    "name, args",
    [
        ("train", ["pretrain", "--resume", "--out"]),
        ("valid", ["pretrain", "--resume", "--out"]),
        ("valid", ["evaluate"]),
    ],
)
def test_other_tokens_are_noticed(run, name, args):
    tokens = np.load(run / "data" / f"{name}.npy")
    tokens[5] = tokens[5] + 1
    np.save(run / "data" / f"{name}.npy", tokens)
    before = contents(run)
    assert f"{name}.npy is not this run's own" in refuses(*args, run)
    assert contents(run) == before


@pytest.mark.parametrize("args", [["evaluate"], ["pretrain", "--resume", "--out"]])
def test_another_validation_text_is_noticed(run, args):
    "The entropy floor is computed from it."
    text = run / "data" / "valid.txt"
    text.write_text(text.read_text()[:-1] + "?")
    before = contents(run)
    assert "valid.txt is not this run's own" in refuses(*args, run)
    assert contents(run) == before


def test_a_run_of_the_first_edition_opens(home, run):
    "It has no digests, and says nothing of the clock."
    score = succeeds("evaluate", run)
    changed(
        run / "run.json",
        lambda values: (values.pop("digests"), values["training"].pop("train_seconds")),
    )
    assert succeeds("evaluate", run) == score
    (run / "checkpoints" / "step_00000008.safetensors").unlink()
    assert "resumed at step 4" in succeeds("pretrain", "--resume", "--out", run)


def test_a_description_and_a_model_that_disagree(run):
    changed(run / "run.json", lambda values: values["model"].update(norm_eps=1e-3))
    for name in "evaluate", "generate":
        assert "norm_eps is 0.001 in run.json and 1e-05 in config.json" in refuses(name, run)
    page = run.with_name("page")
    assert "norm_eps is 0.001 in run.json" in refuses("web", run, "--out", page)
    assert not page.exists()


# Every error is a sentence


@pytest.mark.parametrize(
    "args, says",
    [
        (["train_tokenizer", "--input", "nowhere.txt", "--out", "t"], "nowhere.txt"),
        (["train_tokenizer", "--input", "empty.txt", "--out", "t"], "empty"),
        (["train_tokenizer", "--input", "sums.txt", "--vocab_size", 256, "--out", "t"], "257"),
        (
            ["pretrain", "--preset", "tiny.json", "--context_length", 100_000, "--out", "x"],
            "context of 100000",
        ),
        (
            [
                "pretrain",
                "--preset",
                "tiny.json",
                "--context_length",
                100_000,
                "--out",
                "run",
                "--overwrite",
            ],
            "context of 100000",
        ),
        (
            ["pretrain", "--preset", "tiny.json", "--context_length", 10**15, "--out", "x"],
            "context_length is 1000000000000000",
        ),
        (["pretrain", "--preset", "tiny.json", "--d_model", 10**6, "--out", "x"], "GB"),
        (
            ["pretrain", "--preset", "tiny.json", "--num_layers", 10**9, "--out", "x"],
            "num_layers is 1000000000",
        ),
        (["pretrain", "--preset", "demo", "--out", "x"], "demo_cpu"),
        (["pretrain", "--out", "x"], "--preset is missing"),
        (["pretrain", "--preset", "typo.json", "--out", "x"], "batchsize"),
        (["pretrain", "--preset", "number.json", "--out", "x"], "data"),
        (
            ["pretrain", "--preset", "tiny.json", "--learning_rate", -1, "--out", "x"],
            "learning_rate",
        ),
        (
            ["pretrain", "--preset", "tiny.json", "--precision", "float8", "--out", "x"],
            "bfloat16",
        ),
        (["pretrain", "--preset", "tiny.json", "--seed", 2**64, "--out", "x"], "seed"),
        (["pretrain", "--preset", "low.json", "--out", "x"], "training.min_learning_rate"),
        (
            ["pretrain", "--preset", "tiny.json", "--tokenizer", "nowhere", "--out", "x"],
            "nowhere",
        ),
        (["pretrain", "--preset", "tiny.json", "--out", "sums.txt"], "sums.txt"),
        (["pretrain", "--resume", "--out", "x"], "is not a run folder"),
        (["pretrain", "--preset", "tiny.json", "--out", "x", "--device", "gpu"], "cuda"),
        (["evaluate", "."], "is not a run folder"),
        (["evaluate", "nowhere"], "is not a run folder"),
        (["generate", "."], "is not a run folder"),
        (["generate", ""], "run is empty"),
        (["evaluate", ""], "run is empty"),
        (["train_tokenizer", "--input", "", "--out", "x"], "input is empty"),
        (["web", "run", "--out", ""], "out is empty"),
        (["pretrain", "--preset", "tiny.json", "--out", ""], "out is empty"),
        (["pretrain", "--preset", "tiny.json", "--data", "", "--out", "x"], "data is empty"),
        (["pretrain", "--preset", "nothing.json", "--out", "x"], "data is ''"),
        (["pretrain", "--preset", "zero.json", "--out", "x"], "data is 'a\\x00b'"),
        (
            ["pretrain", "--preset", "tiny.json", "--tokenizer", "", "--out", "x"],
            "tokenizer is empty",
        ),
        (["generate", "run", "--prompt", "1 and 2 make 3. " * 50], "context"),
        (["generate", "run", "--temperature", -1], "temperature"),
        (["generate", "run", "--temperature", "nan"], "temperature"),
        (["generate", "run", "--top_p", 2], "top_p"),
        (["generate", "run", "--top_k", 0], "top_k"),
        (["generate", "run", "--max_new_tokens", -1], "max_new_tokens"),
        (["generate", "run", "--precision", "half"], "--precision is 'half': one of auto"),
        (["web", "nowhere", "--out", "p"], "nowhere"),
        (["demo", "--minutes", 0], "--minutes is 0"),
        (["demo", "--minutes", -1], "--minutes is -1"),
        (["demo", "--minutes", "nan"], "--minutes is nan"),
        (["demo", "--out", "run2", "--minutes", "1"], "another run"),
        (["experiment", "leraning_rate"], "learning_rate"),
        (["experiment", "parts", "--seeds", 0], "seeds is 0"),
        (["speedrun", "--recipe", "leap"], "all or one of demo"),
    ],
    ids=lambda value: " ".join(map(str, value))[:50] if isinstance(value, list) else "",
)
def test_a_bad_input_gets_one_sentence(home, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(shutil.copytree(home, tmp_path / "here"))
    good = json.loads(Path("tiny.json").read_text())
    Path("empty.txt").touch()
    Path("typo.json").write_text(json.dumps(good | {"training": {"batchsize": 3}}))
    Path("number.json").write_text(json.dumps(good | {"data": 5}))
    Path("nothing.json").write_text(json.dumps(good | {"data": ""}))
    Path("zero.json").write_text(json.dumps(good | {"data": "a\0b"}))
    low = TRAINING | dict(learning_rate=5e-5)  # case 15: the floor stays at 1e-4
    Path("low.json").write_text(json.dumps(good | {"training": low}))
    shutil.copytree("run", "run2")
    Path("run2/report.md").unlink()
    before = contents(".")
    assert says in refuses(*args)
    assert contents(".") == before


@pytest.mark.parametrize(
    "name, spoil, says",
    [
        ("run.json", lambda text: text[:-20], "run.json is not JSON"),  # case 13
        ("run.json", lambda text: text.replace('"data":', '"data":,'), "run.json is not JSON"),
        ("run.json", lambda text: text.encode("utf-16"), "run.json is not JSON"),
        ("run.json", lambda text: text.replace('"data"', '"date"', 1), "data must be there"),
        ("run.json", lambda text: "[]", "object"),
        ("run.json", lambda text: "[" * 100_000, "nested"),
        ("run.json", lambda text: json.dumps(json.loads(text) | {"digests": []}), "digests"),
        ("config.json", lambda text: text[:-20], "config.json"),
        ("config.json", lambda text: text.replace("16", "1000000000000"), "config.json"),
        ("tokenizer.json", lambda text: text[:-20], "tokenizer.json"),
        ("model.safetensors", lambda data: data[:-1], "model.safetensors"),
        (
            "model.safetensors",
            lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "model.safetensors is not this run's own",
        ),
        ("accounting.json", lambda text: "", "accounting.json"),
        ("accounting.json", lambda text: "{}", "accounting.json"),
        (
            "accounting.json",
            lambda text: text.replace('"seconds": ', '"seconds": 0, "second": '),
            "accounting.json",
        ),
        (
            "accounting.json",
            lambda text: text.replace('"flops": ', '"flops": 1' + "0" * 400),
            "accounting.json",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_used_is_named(run, name, spoil, says):
    path = run / name
    value = spoil(path.read_bytes() if name.endswith("tensors") else path.read_text())
    path.write_bytes(value.encode() if isinstance(value, str) else value)
    before = contents(run)
    assert says in refuses("evaluate", run)
    if name != "accounting.json":
        assert says in refuses("generate", run)
    assert contents(run) == before


def test_a_token_id_that_the_tokenizer_does_not_have(run):
    "In a run of the first edition, whose files have no digest."
    tokens = np.load(run / "data" / "valid.npy")
    tokens[17] = 5000
    np.save(run / "data" / "valid.npy", tokens)
    changed(run / "run.json", lambda values: values.pop("digests"))
    assert "token id 5000 at position 17" in refuses("evaluate", run)


def test_a_metrics_line_that_is_none(run):
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 1.0}\nnonsense\n{"step": 2, "loss": 1.0}\n'
    )
    before = contents(run)
    assert "metrics.jsonl, line 2" in refuses("pretrain", "--resume", "--out", run)
    assert contents(run) == before


def test_weights_that_are_not_numbers(run):
    "Of a file without a digest, as the first edition and others wrote them."
    weights = load_file(run / "model.safetensors")
    weights["lm_head.weight"][7] = float("nan")
    save_file(weights, run / "model.safetensors")
    changed(run / "run.json", lambda values: values["digests"].pop("model.safetensors"))
    before = contents(run)
    for name in "evaluate", "generate":
        assert "number" in refuses(name, run)
    assert contents(run) == before


def test_a_score_that_is_no_number():
    model = Transformer(TransformerConfig(**MODEL))
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(FloatingPointError, match="token 0 is not a number"):
        token_losses(model, np.arange(50))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2 bytes"),
    ],
)
def test_memory_that_is_not_there(monkeypatch, error):
    def greedy(
        run: str,  # a run
    ):
        raise error

    monkeypatch.setitem(COMMANDS, "evaluate", greedy)
    greedy.__doc__ = "Take much."
    assert "not enough memory" in refuses("evaluate", "run")


def on_a_gpu(monkeypatch, gpu, machine):
    "As if there were a GPU, of so many bytes, and the machine had so many."
    monkeypatch.setattr("lm336.devices.pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=gpu)
    )
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=machine))


def test_a_model_is_compared_with_the_memory_of_its_gpu(home, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def trainer(*args):
        raise Enough

    monkeypatch.setattr("lm336.runs.Run", trainer)
    args = "--preset", home / "tiny.json", "--out", tmp_path / "run"
    on_a_gpu(monkeypatch, gpu=150_000, machine=10**15)
    assert "to train, the GPU has" in refuses("pretrain", *args)
    assert not contents(tmp_path)
    on_a_gpu(monkeypatch, gpu=10**15, machine=20_000)  # the weights are made in the machine's
    assert "a model of this shape needs" in refuses("pretrain", *args)
    assert not contents(tmp_path)
    on_a_gpu(monkeypatch, gpu=10**15, machine=150_000)
    with pytest.raises(Enough):
        command("pretrain", *args)


def test_a_bug_is_not_made_to_look_like_a_bad_input(monkeypatch):
    def buggy(
        run: str,  # a run
    ):
        raise RuntimeError("shapes cannot be multiplied")

    buggy.__doc__ = "Fail."
    monkeypatch.setitem(COMMANDS, "evaluate", buggy)
    with pytest.raises(RuntimeError):
        command("evaluate", "run")


# Cases 05, 06, 11 and 14: texts


def test_half_a_character_in_jsonl(home, tmp_path):
    lines = ['{"text": "a fine day by the sea and more words"}'] * 200 + [
        '{"text": "half an emoji \\ud83d here"}'
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    for args in (
        [
            "train_tokenizer",
            "--input",
            tmp_path / "in.jsonl",
            "--vocab_size",
            300,
            "--out",
            tmp_path / "t",
        ],
        [
            "pretrain",
            "--preset",
            home / "tiny.json",
            "--data",
            tmp_path / "in.jsonl",
            "--out",
            tmp_path / "r",
        ],
    ):
        sentence = refuses(*args)
        assert "in.jsonl" in sentence and "201" in sentence
    assert not (tmp_path / "t" / "tokenizer.json").exists()


def test_gz_of_each_kind(tmp_path):
    documents = [json.dumps({"text": f"line one of many, line {i}"}) + "\n" for i in range(50)]
    with gzip.open(tmp_path / "docs.jsonl.gz", "wt") as file:
        file.writelines(documents)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as file:
        file.addfile(tarfile.TarInfo("data.json"), io.BytesIO())
    damaged = bytearray(gzip.compress(" ".join(map(str, range(5000))).encode()))
    damaged[16:24] = b"\xff" * 8
    (tmp_path / "damaged.txt.gz").write_bytes(damaged)
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a text to be cut off" * 100)[:-20])
    (tmp_path / "text.json").write_text('{"text": "no jsonl"}')
    succeeds(
        "train_tokenizer",
        "--input",
        tmp_path / "docs.jsonl.gz",
        "--vocab_size",
        270,
        "--out",
        tmp_path / "t",
    )
    tokenizer = Tokenizer.from_pretrained(tmp_path / "t")
    tokens = {tokenizer.decode([i]) for i in range(256, tokenizer.vocab_size)}
    assert " of" in tokens and not any('"' in token for token in tokens), (
        "the texts, not the lines around them"
    )
    for name in ("all.tar.gz", "damaged.txt.gz", "cut.txt.gz", "text.json"):
        assert name in refuses(
            "train_tokenizer",
            "--input",
            tmp_path / name,
            "--vocab_size",
            300,
            "--out",
            tmp_path / "none",
        )
    assert not (tmp_path / "none" / "tokenizer.json").exists()


@pytest.mark.parametrize("number", [10**6, 10**12, 10**19])
def test_room_for_every_token_at_once(run, number):
    "The text ends long before: nothing may be set aside for tokens that are never drawn."
    status, out, err = command("generate", run, "--max_new_tokens", number, "--seed", 0)
    assert (status == 0 and out) or (
        status == 1 and "max_new_tokens" in err and "Traceback" not in err
    )


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="no pipe has a name here")
def test_a_text_from_a_pipe(home, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lm336",
            "pretrain",
            "--preset",
            home / "tiny.json",
            "--data",
            "/dev/stdin",
            "--out",
            tmp_path / "run",
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(SUMS, timeout=120)
    last = err.strip().splitlines()[-1]
    if process.returncode == 0:
        assert (tmp_path / "run" / "data" / "train.txt").read_text() + (
            tmp_path / "run" / "data" / "valid.txt"
        ).read_text() == SUMS
    else:
        assert (
            process.returncode == 1
            and "/dev/stdin" in last
            and "Traceback" not in err
            and "has no text" not in err
        ), err


# Terminals, pipes, disks, Ctrl-C


def test_names_that_are_not_utf8(home, tmp_path):
    if os.name == "nt" or sys.platform == "darwin":
        pytest.skip("file names are Unicode here")
    folder = tmp_path / "a b'\"$(x)" / os.fsdecode(b"\xff\xfe")
    folder.mkdir(parents=True)
    shutil.copy(home / "sums.txt", folder)
    for out in folder / "run", tmp_path / "run":
        status, _, err = command(
            "pretrain",
            "--preset",
            home / "tiny.json",
            "--data",
            folder / "sums.txt",
            "--out",
            out,
        )
        assert status in (0, 1) and "Traceback" not in err
        if status == 0:
            succeeds("evaluate", out)
            succeeds("pretrain", "--resume", "--out", out)


def test_a_terminal_that_is_not_utf8_gets_question_marks(run):
    out, err = program(
        "generate",
        run,
        "--prompt",
        "1 ± 2",
        "--max_new_tokens",
        0,
        env={"PYTHONIOENCODING": "ascii"},
    ).communicate(timeout=120)
    assert out.strip() == b"1 ? 2" and err == b""


def test_a_reader_that_has_seen_enough(run):
    process = program("generate", run, "--max_new_tokens", 100_000, "--temperature", 100)
    assert process.stdout and process.stderr
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=120)
    assert err == b"" and process.returncode == 128 + signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to be had")
def test_output_to_a_full_disk(run):
    with open("/dev/full", "w") as full:
        process = program("generate", run, stdout=full)
        _, err = process.communicate(timeout=120)
    assert (
        process.returncode == 1 and err.count(b"\n") == 1 and b"No space left on device" in err
    )


INTERRUPTED = """
import builtins, sys
from lm336.cli import main
real = builtins.__import__
def impatient(name, *args, **kwargs):
    if name.startswith("torch"):
        raise KeyboardInterrupt
    return real(name, *args, **kwargs)
builtins.__import__ = impatient
main(sys.argv[1], sys.argv[2:])
"""


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "run"],
        ["evaluate", "run"],
        ["demo", "--out", "new"],
        ["pretrain", "--preset", "demo_cpu", "--out", "new"],
    ],
)
def test_ctrl_c_while_torch_is_imported(home, args):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *args],
        cwd=home,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 130 and done.stderr.strip().startswith(
        f"lm336_{args[0]}: interrupted"
    ), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_ctrl_c_names_the_command_that_goes_on(home, tmp_path):
    out = tmp_path / "my run"
    process = program(
        "pretrain", "--preset", home / "tiny.json", "--out", out, "--max_steps", 100_000
    )
    while not list(out.glob("checkpoints/step_*")) and process.poll() is None:
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    last = err.decode().strip().splitlines()[-1]
    assert (
        process.returncode == 130
        and last
        == f"lm336 pretrain: interrupted; lm336_pretrain --resume --out '{out}' "
        "goes on from the last checkpoint"
    )
    assert b"Traceback" not in err
    assert "has no checkpoint" not in refuses(
        "pretrain", "--preset", home / "tiny.json", "--out", out
    )


# The demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    "One of a second and a half of training."
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, succeeds("demo", "--out", folder, "--minutes", 0.025)


def test_the_demo_says_how_long_it_takes_and_what_to_type_next(demo):
    folder, out = demo
    assert (
        "seconds before and after" in out.splitlines()[0] and f"lm336_generate {folder}" in out
    )
    assert out.count("* * *") == 5 and "the entropy floor of" in out
    run = json.loads((folder / "run.json").read_text())
    assert run["training"]["train_seconds"] == 1.5


def test_a_second_demo_tells_another_story(demo):
    folder, _ = demo
    before = contents(folder)
    first, second = (succeeds("demo", "--out", folder) for _ in range(2))
    for out in first, second:
        assert "has ended" in out and out.rstrip().endswith("--overwrite.")
    assert first != second and contents(folder) == before


def test_an_interrupted_demo_goes_on(demo, tmp_path):
    folder = shutil.copytree(demo[0], tmp_path / "demo")
    (folder / "report.md").unlink()
    begun = json.loads((folder / "run.json").read_text())
    out = succeeds("demo", "--out", folder, "--minutes", 7)
    assert (
        "going on with the run" in out
        and "resumed at step" in out
        and (folder / "report.md").exists()
    )
    after = json.loads((folder / "run.json").read_text())
    for run in (begun, after):
        del run["digests"]["model.safetensors"]  # it may have had time for a step more
    assert after == begun
    (folder / "report.md").unlink()
    shutil.rmtree(folder / "checkpoints")
    before = contents(folder)
    assert "no checkpoint to continue from" in refuses("demo", "--out", folder)
    assert contents(folder) == before
