"""The benchmarks: one driver runs them all, whatever happens to one.

The logs change only where --record asks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HELPERS = {"all.py", "common.py", "memory.py", "tokenizer_jobs.py", "scaling.py"}
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
    names = {path.name for path in benchmarks.glob("*.py")} - HELPERS
    for name in names:  # the same statements, and nothing else to run
        minutes = [
            line
            for line in (benchmarks / name).read_text().splitlines()
            if line.startswith("MINUTES = ")
        ]
        assert len(minutes) == 1, f"{name} must state its minutes"
        (benchmarks / name).write_text(minutes[0])
    done = run(benchmarks, "all.py")
    assert done.returncode == 0, done.stderr
    assert {
        line.split()[0] for line in done.stdout.split("minutes\n")[1].splitlines()
    } == names


def test_logs_change_only_where_recording_is_asked_for(benchmarks):
    script, before = (
        ("learning.py", "--sizes", "small", "--tokens", "8", "--repeats", "1"),
        logs(benchmarks),
    )
    assert (done := run(benchmarks, *script)).returncode == 0, done.stderr
    assert logs(benchmarks) == before
    assert (done := run(benchmarks, *script, "--record")).returncode == 0, done.stderr
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


def test_a_quick_measurement_is_never_recorded(benchmarks):
    before = logs(benchmarks)
    done = run(benchmarks, "learning.py", "--quick", "--record")
    assert done.returncode == 2 and "not both" in done.stderr
    assert logs(benchmarks) == before


def test_a_wrong_path_gets_a_sentence(benchmarks):
    done = run(benchmarks, "shakespeare.py", "nowhere.txt")
    assert done.returncode == 1
    wanted = "a text is needed, such as tinyshakespeare.txt"
    assert done.stderr == f"shakespeare.py: nowhere.txt does not exist: {wanted}\n"
