"""What users hold the package to: the README's program, names, and what they have on disk.

Names and options may be added here. One that goes breaks somebody's script.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lm336 import PRESETS, Tokenizer, load_preset, load_run
from lm336.cli import COMMANDS, main

from .adapters import run_train_bpe
from .conftest import ROOT

OPTIONS = {
    "demo": "--out --minutes --overwrite --device",
    "train_tokenizer": "--input --out --vocab_size --overwrite",
    "pretrain": """
        --out --preset --data --tokenizer --resume --overwrite --device --max_steps
        --batch_size --gradient_accumulation_steps --learning_rate --min_learning_rate
        --warmup_steps --weight_decay --precision --compile --eval_interval --save_interval
        --seed --vocab_size --context_length --d_model --num_layers --num_heads
    """,
    "evaluate": "--device",
    "generate": "--prompt --max_new_tokens --temperature --top_k --top_p --seed --device",
    "web": "--out --overwrite",
    "experiment": "--data --scale --seeds --log",
    "speedrun": "--recipe --log",
}
ARGUMENTS = {"evaluate": "run", "generate": "run", "web": "run", "experiment": "name"}


def snippet() -> str:
    "The program that README.md shows."
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.S)
    assert found, "README.md shows no program"
    return found[1]


def test_the_readmes_program_runs_as_printed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", snippet()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith("Once upon a time") and len(done.stdout.split()) > 20


def type_errors(code: str, folder: Path) -> list[str]:
    "What pyright says of a program, as an editor would."
    (folder / "program.py").write_text(code, encoding="utf-8")
    settings = dict(typeCheckingMode="standard", extraPaths=[str(ROOT)])
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--outputjson", "--pythonpath", sys.executable]
    command = [sys.executable, "-m", "pyright", *options, "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    said = json.loads(done.stdout)["generalDiagnostics"]
    return [one["message"] for one in said if one["severity"] == "error"]


needs_pyright = pytest.mark.skipif(not find_spec("pyright"), reason="pyright is not here")


@needs_pyright
def test_a_type_checker_finds_no_fault_with_the_readmes_program(tmp_path):
    assert type_errors(snippet(), tmp_path) == []


@needs_pyright
@pytest.mark.parametrize(
    "code, says",
    [
        ("from lm336 import load_preset\nload_preset(1)\n", '"Literal[1]"'),
        ("from lm336 import Transformer\nTransformer(1)\n", "TransformerConfig"),
        ("from lm336 import Transformers\n", "Transformers"),
    ],
)
def test_a_type_checker_sees_what_a_name_is(tmp_path, code, says):
    (error,) = type_errors(code, tmp_path)
    assert says in error


def test_a_run_of_the_first_edition_opens_and_tells():
    "The demo's is one: its description has no digests, and nothing of the clock."
    folder = ROOT / "data" / "demo"
    described = json.loads((folder / "run.json").read_text())
    assert "digests" not in described and "train_seconds" not in described["training"]
    run, model, tokenizer = load_run(folder)
    assert run["model"] == described["model"] and run["digests"] == {}
    begin = tokenizer.encode("Once upon a time")
    ids = model.generate(begin, max_new_tokens=20, temperature=0)
    assert ids[: len(begin)] == begin and len(ids) == len(begin) + 20
    assert isinstance(tokenizer, Tokenizer) and tokenizer.decode(ids).startswith("Once upon")


def test_the_presets_have_their_names_and_the_reference_its_values():
    promised = {"demo_cpu", "tinystories_cs336", "tinystories_t4", "tinystories_t4_tuned"}
    assert promised <= set(PRESETS)
    for name in PRESETS:
        load_preset(name)
    data, model, training = load_preset("tinystories_t4")
    assert data == "tinystories"
    shape = (model.vocab_size, model.context_length, model.d_model, model.d_ff)
    assert shape == (32_000, 256, 512, 1344)
    assert (model.num_layers, model.num_heads, model.rope_theta) == (4, 16, 10_000)
    assert (training.learning_rate, training.min_learning_rate) == (5e-4, 1e-4)
    assert (training.warmup_steps, training.max_steps) == (500, 5_000)
    assert (training.weight_decay, training.max_grad_norm) == (0.01, 1.0)
    assert training.batch_size == 32


def test_every_command_is_there():
    assert OPTIONS.keys() <= COMMANDS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_has_its_options(name, capsys):
    with pytest.raises(SystemExit):
        main(name, ["--help"])
    said = capsys.readouterr().out
    options = set(re.findall(r"(?m)^  (--\w+)", said))
    missing = set(OPTIONS[name].split()) - options
    assert not missing, f"lm336_{name} lacks {missing}"
    if name in ARGUMENTS:
        assert re.search(rf"(?m)^  {ARGUMENTS[name]} ", said), f"lm336_{name} takes a run"


def test_the_courses_corpus_has_an_ending_of_its_own(tmp_path):
    "Its file is called corpus.en, a kind that `read_text` refuses."
    corpus = tmp_path / "corpus.en"
    corpus.write_text("low low lower<|endoftext|>low", encoding="utf-8")
    vocab, merges = run_train_bpe(corpus, 259, ["<|endoftext|>"])
    assert merges == [(b"o", b"w"), (b"l", b"ow")]
    assert len(vocab) == 259 and b"<|endoftext|>" in vocab.values()
