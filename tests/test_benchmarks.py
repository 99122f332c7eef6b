"""The benchmarks: one driver runs them all, whatever happens to one.

The logs change only where --record asks."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lm336.configuration import load_preset

ROOT = Path(__file__).parent.parent
HELPERS = {
    "all.py", "common.py", "memory.py", "tokenizer_jobs.py", "scaling.py", "inside.py",
}
SCRIPTS = sorted({path.name for path in (ROOT / "benchmarks").glob("*.py")} - HELPERS)
WORKS = 'MINUTES = {"full": 3, "quick": 1}\nprint("measured")\n'


@pytest.fixture
def benchmarks(tmp_path):
    "A copy of the folder, that a test may write to."
    return shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")


def run(folder, *words, **environment):
    "A program of the folder in a process of its own, away from any text."
    environment = (
        os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | environment
    )
    environment.pop("LM336_TEXT", None)
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def logs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def stub(folder, name, program):
    path = folder / name
    path.write_text(program)
    return path


def test_a_failing_script_does_not_stop_the_others(benchmarks):
    scripts = [
        stub(benchmarks, "breaks.py", WORKS + 'raise RuntimeError("no more")'),
        benchmarks / "shakespeare.py",
        stub(benchmarks, "works.py", WORKS),
    ]
    done = run(benchmarks, "all.py", "--quick", *scripts)
    assert done.returncode == 1, done.stderr
    table = {line.split()[0]: line for line in done.stdout.split("minutes\n")[1].splitlines()}
    assert "failed" in table["breaks.py"] and "exit status 1" in table["breaks.py"]
    assert "skipped" in table["shakespeare.py"] and "needs a text" in table["shakespeare.py"]
    assert table["works.py"].split()[1] == "done"
    assert "RuntimeError: no more" in done.stderr
    assert done.stdout.count("measured") == 2, "what a script prints must be shown"


def test_status_is_0_where_none_failed_and_minutes_come_first(benchmarks):
    works = stub(benchmarks, "works.py", WORKS + 'import sys\nprint("given", *sys.argv[1:])')
    for flags, minutes in (([], 3), (["--record"], 3), (["--quick"], 1)):
        done = run(benchmarks, "all.py", *flags, works)
        assert done.returncode == 0, done.stderr
        assert done.stdout.index(f"about {minutes} min") < done.stdout.index("measured")
        assert " ".join(["given", *flags]) in done.stdout.splitlines(), "options are passed on"


def test_a_script_that_does_not_state_its_minutes_is_refused(benchmarks):
    done = run(benchmarks, "all.py", stub(benchmarks, "silent.py", 'print("measured")'))
    assert done.returncode == 1 and "silent.py does not say how long it takes" in done.stderr
    assert "measured" not in done.stdout


def test_all_runs_every_script_and_each_states_its_minutes(benchmarks):
    for name in SCRIPTS:  # the same statements, and nothing else to run
        minutes = [
            line
            for line in (benchmarks / name).read_text().splitlines()
            if line.startswith("MINUTES = ")
        ]
        assert len(minutes) == 1, f"{name} must state its minutes"
        (benchmarks / name).write_text(minutes[0])
    done = run(benchmarks, "all.py")
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("minutes\n")[1].splitlines()
    assert sorted(line.split()[0] for line in table) == SCRIPTS


# learning.py on a machine that looks the same whenever it is looked at
QUIET = """
import runpy, sys
sys.path.insert(0, ".")
import common
common.calibrate = lambda: common.Calibration(speed=1e11, others=0)
sys.argv[:] = sys.argv[1:]
runpy.run_path("learning.py", run_name="__main__")
"""


def test_a_script_appends_to_its_own_log_alone(benchmarks):
    script, before = (
        ("learning.py", "--sizes", "small", "--tokens", "8", "--repeats", "1"),
        logs(benchmarks),
    )
    done = run(benchmarks, "-c", QUIET, *script, "--record")
    assert done.returncode == 0, done.stderr
    assert re.search(r"torch \d.*\nfloat32.*; about 2 min", done.stdout)
    after = logs(benchmarks)
    old, new = before.pop("learning.jsonl"), after.pop("learning.jsonl")
    assert after == before
    assert new.startswith(old)
    rows = [json.loads(line) for line in new.removeprefix(old).splitlines()]
    assert {row["library"] for row in rows} >= {
        "lm336",
        "PyTorch fused",
        "lm336 clip",
        "PyTorch whole",
    }
    for row in rows:
        assert {"date", "task", "ms", "seconds", "cpu", "gpu", "torch", "lm336"} <= row.keys()
        assert row["precision"] in ("float32", "bfloat16")
        assert row["command"] == "python benchmarks/" + " ".join(script) + " --record"


def loaded(name):
    "A module of the folder."
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def common():
    "The module that all scripts share."
    return loaded("common")


# (GFLOP/s of a product, share that others take) at each look; how many rows of two are kept
LOOKS = {
    "quiet": ([(100, 0.02), (95, 0.05), (105, 0)], 2),
    "slower after it": ([(100, 0), (80, 0), (80, 0)], 0),
    "faster after it": ([(80, 0), (100, 0), (100, 0)], 0),
    "slower for a while": ([(100, 0), (80, 0), (100, 0)], 1),
    "others came": ([(100, 0), (100, 0.5), (100, 0)], 1),
    "others were there before": ([(100, 0.5), (100, 0), (100, 0)], 0),
}


def record_two_rows(common, monkeypatch, folder, *words):
    "As a script does that lies in a folder, called with these words."
    monkeypatch.setattr("sys.argv", [str(folder / "script.py"), *words])
    args = common.parse(common.options("A script.", {"full": 3, "quick": 1}))
    common.announce(args, "float32")
    for number in (1, 2):
        common.record(args, "task", "float32", number=number)


@pytest.mark.parametrize("looks, kept", LOOKS.values(), ids=LOOKS)
def test_nothing_is_recorded_while_the_machine_is_busy(
    common, tmp_path, monkeypatch, capsys, looks, kept
):
    figures = iter([common.Calibration(1e9 * speed, others) for speed, others in looks])
    monkeypatch.setattr(common, "calibrate", lambda: next(figures))
    record_two_rows(common, monkeypatch, tmp_path, "--record")
    said = capsys.readouterr().out
    assert said.count("not recorded, because the machine was busy: ") == 2 - kept
    assert ("nothing will be recorded" in said) == (looks[0][1] > 0.1)
    log = tmp_path / "script.jsonl"
    assert len(log.read_text().splitlines() if log.exists() else []) == kept


def test_nothing_is_recorded_where_nobody_asked(common, tmp_path, monkeypatch):
    record_two_rows(common, monkeypatch, tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_quick_measurement_is_never_recorded(common, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        record_two_rows(common, monkeypatch, tmp_path, "--quick", "--record")
    assert "not both" in capsys.readouterr().err and [*tmp_path.iterdir()] == []


def test_a_machine_is_looked_at_in_earnest(common):
    look = common.calibrate()
    assert look.speed > 0 and 0 <= look.others <= 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_runs_on_and_is_quick_where_asked(name):
    tree = ast.parse((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    told = "common.parse", "common.announce", "common.record", "common.start"
    assert all(called.count(each) >= 1 for each in told), f"{name} leaves out one of {told}"
    (minutes,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MINUTES"
    )
    assert minutes["quick"] < 2, f"{name} --quick should take less than two minutes"


def test_a_wrong_path_gets_a_sentence(benchmarks):
    done = run(benchmarks, "shakespeare.py", "nowhere.txt")
    assert done.returncode == 1
    wanted = "a text is needed, such as tinyshakespeare.txt"
    assert done.stderr == f"shakespeare.py: nowhere.txt does not exist: {wanted}\n"


def test_the_reference_run_takes_any_preset_on_the_corpus_that_comes_with_it(
    common, monkeypatch, tmp_path
):
    "As on a GPU, up to the training, which is another test's."
    monkeypatch.setitem(sys.modules, "common", common)
    reference = loaded("reference")
    asked = []

    def begin_run(preset, out, **changes):
        data, _, training = load_preset(preset, **changes | dict(data=None))
        asked.append((preset, changes.get("data", data), training.max_steps))
        raise SystemExit

    monkeypatch.setattr(reference, "begin_run", begin_run)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(common, "announce", lambda *_: None)
    monkeypatch.setattr(reference, "pick_device", lambda: torch.device("cpu"))
    mine = tmp_path / "mine.json"
    mine.write_text((ROOT / "lm336/presets/demo_cpu.json").read_text())
    for words in ([], ["--preset", "tinystories_cs336"], ["--preset", str(mine)]):
        monkeypatch.setattr(sys, "argv", ["reference.py", *words])
        with pytest.raises(SystemExit):
            reference.main()
    assert asked == [
        ("tinystories_t4", "stories:200", 5_000),
        ("tinystories_cs336", "stories:200", 10_000),
        (str(mine), "stories", 2_200),
    ]
