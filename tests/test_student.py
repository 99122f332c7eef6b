"The notebooks without answers: nothing gives them away, and a page still runs to its end."
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lm336.questions import CORE, find_exercises, notebook_cells

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "student"
    command = [sys.executable, ".ci/student.py", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return folder


def test_stubs_checks_and_hints_are_there_and_no_answer_is(student):
    asked, given = find_exercises(NBS), find_exercises(student)
    assert [one.label for one in given] == [one.label for one in asked]
    for with_answer, one in zip(asked, given, strict=True):
        assert (one.stub, one.hint) == (with_answer.stub, with_answer.hint)
        assert not one.solution and not one.wrong and not one.answer, one.label
        if one.stub:
            assert one.check == with_answer.check
        else:
            assert "assert " not in "".join(one.code), f"{one.label}: asserts its answer"


def test_the_books_own_parts_are_imported_and_not_shown(student):
    asked = [one for one in find_exercises(NBS) if one.name in CORE]
    assert asked
    for one in asked:
        shown = "\n".join(text for _, text in notebook_cells(student / one.path.name))
        for name in CORE[one.name]:
            imported = rf"(?m)^from lm336\.\w+ import .*\b{name}\b"
            assert re.search(imported, shown), f"{name} is not there"
            bodies = re.findall(rf"(?m)^(?:def|class) {name}\b", shown)
            assert len(bodies) <= (name == one.name), f"the book's {name} is on the page"


def test_nothing_is_written_over(student):
    command = [sys.executable, ".ci/student.py", str(student)]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1 and "already exists" in done.stderr


@pytest.mark.parametrize("name", ["06_attention.ipynb", "11_schedule.ipynb"])
def test_a_page_runs_from_top_to_bottom_with_its_stubs(student, name):
    command = [sys.executable, ".ci/notebooks.py", "execute", str(student / name)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"LM336_ANSWERS": ""},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
