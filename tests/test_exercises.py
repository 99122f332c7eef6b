"Every exercise: complete, its solution passes, its stub and its tempting wrong answer do not."
import ast
import os
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

from lm336 import _modidx
from lm336.exercises import answers_folder, grade, grade_all, progress, read_parts
from lm336.questions import CORE, define, find_exercises, free_names, notebook_cells

NBS = Path(__file__).parents[1] / "nbs"
EXERCISES = find_exercises(NBS)
GRADED = [one for one in EXERCISES if one.stub]
WRITTEN = [one for one in EXERCISES if not one.stub]
CORE_ONES = [one for one in GRADED if one.name in CORE]
label = attrgetter("label")


def run(exercise, answer):
    check = define(exercise, exercise.check, f"check_{exercise.name}")
    check(define(exercise, answer, exercise.name))


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_solution_passes(exercise):
    assert exercise.hint
    run(exercise, exercise.solution)


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_stub_is_rejected(exercise):
    with pytest.raises(NotImplementedError):
        run(exercise, exercise.stub)


@pytest.mark.parametrize("exercise", [e for e in GRADED if e.wrong], ids=label)
def test_wrong_answer_is_rejected(exercise):
    with pytest.raises(Exception) as caught:
        run(exercise, exercise.wrong)
    broken = (NotImplementedError, NameError, SyntaxError)
    assert not isinstance(caught.value, broken), "the wrong answer does not even run"


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_answers_fit_the_page(exercise):
    "95 columns, as all code: a page cuts what is wider."
    answers = [exercise.solution, exercise.wrong or ""]
    assert [line for code in answers for line in code.splitlines() if len(line) > 95] == []


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_stub_is_documented(exercise):
    "What comes in, what goes out, in words beside each parameter."
    name, stub = exercise.name, exercise.stub
    function, = [node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
    assert ast.get_docstring(function)
    for arg in function.args.args:
        assert re.search(rf"^ +{arg.arg}\b.* # \S", stub, re.M), f"{name}({arg.arg})"


@pytest.mark.parametrize("exercise", WRITTEN, ids=label)
def test_written_answer_is_folded_and_asserted(exercise):
    assert exercise.answer
    asserting = [text for text in exercise.code if "assert " in text]
    assert asserting, "nothing in the answer is asserted"


def test_every_chapter_has_three_to_eight():
    "Under the hood fewer will do."
    for path in sorted(NBS.glob("[0-9]*.ipynb")):
        numbers = [e.number for e in EXERCISES if e.path == path]
        if numbers:
            least = 1 if path.name >= "23" else 3
            assert least <= len(numbers) <= 8, path.name
        assert numbers == list(range(1, len(numbers) + 1)), f"{path.name}: {numbers}"
        assert all(e.chapter == path.name[:2] for e in EXERCISES if e.path == path)


def test_names_are_their_own():
    "An answer must not hide another, nor what the book defines, core parts aside."
    symbols = [symbol for symbols in _modidx.d["syms"].values() for symbol in symbols]
    public = {symbol.split(".")[2] for symbol in symbols}
    names = [e.name for e in GRADED]
    assert len(set(names)) == len(names) and not (set(names) - CORE.keys()) & public


CODE = {
    "train_bpe", "tokenizer", "linear", "embedding", "rmsnorm", "positionwise_feedforward",
    "rope", "softmax", "scaled_dot_product_attention", "multihead_self_attention",
    "transformer_block", "transformer_lm", "cross_entropy", "adamw", "learning_rate_schedule",
    "gradient_clipping", "data_loading", "checkpointing", "training_together", "decoding",
    "experiment_log",
}
WORDS = [  # the handout's questions, by what they ask for
    "unicode1", "unicode2", "train_bpe_tinystories", "train_bpe_expts_owt",
    "tokenizer_experiments", "transformer_accounting", "learning_rate_tuning",
    "adamwAccounting", "learning_rate", "batch_size_experiment", "generate",
    "layer_norm_ablation", "pre_norm_ablation", "no_pos_emb", "swiglu_ablation",
    "main_experiment", "leaderboard",
]


def prose(page):
    "The Markdown of a page."
    return "\n".join(text for kind, text in notebook_cells(NBS / page) if kind == "markdown")


def anchors(page):
    "Its headings, as Quarto makes anchors of them."
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    plain = [re.sub(r"[^\w\-. ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {re.sub(r"^[^a-z]+", "", title) for title in plain}


def homes():
    "Question of the course -> (page, anchor), from the table."
    row = r"^\| `(\w+)` \| \[[^]]+\]\((\w+\.ipynb)#([^)]+)\)"
    rows = re.findall(row, prose("exercises.ipynb"), re.M)
    return {name: (page, anchor) for name, page, anchor in rows}


def test_every_question_of_the_course_has_a_home():
    assert homes().keys() == CODE | set(WORDS)
    for name, (page, anchor) in homes().items():
        assert anchor in anchors(page), f"{name}: {page}#{anchor}"


@pytest.mark.parametrize("name", WORDS)
def test_a_question_asked_in_words_is_answered_in_an_exercise(name):
    "The exercise names the question, and the table leads there."
    named = re.compile(rf"\(.*`{name}`.* of CS336\.\)")
    tagged = [exercise for exercise in EXERCISES if named.search(exercise.cells[0][1])]
    assert len(tagged) == 1, f"{name} is named by {len(tagged)} exercises"
    page, anchor = homes()[name]
    assert page == tagged[0].path.name and anchor.startswith(f"exercise-{label(tagged[0])}-")


def written(code, name, folder):
    "What a piece of code calls by this name, in a file, as a notebook's cell is in one."
    path = folder / f"{name}_cell.py"
    path.write_text(code)
    names: dict = {"__name__": "__main__"}
    exec(compile(code, str(path), "exec"), names)
    return names[name]


@pytest.fixture
def answers(tmp_path, monkeypatch):
    "A folder for answers that is not there yet."
    monkeypatch.setenv("LM336_ANSWERS", str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_grade_says_what_is_wrong(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LM336_ANSWERS", "")

    def check(f):
        if f(2) != 4:  # pytest would rewrite a bare assert
            raise AssertionError("did you square it?")

    def stub(x):
        raise NotImplementedError

    def double_(x):
        return x + 1

    def crash(x):
        return [][x]

    def right(x):
        return x * x

    for attempt in (stub, double_, crash, right):
        grade(check, attempt)
    grade(written("def bare(f): assert f(2) == 4", "bare", tmp_path), double_)
    stubbed, wrong, crashed, solved, bare = capsys.readouterr().out.splitlines()
    assert stubbed == "· stub: still a stub"
    assert wrong == "✗ double_: did you square it?"
    assert crashed.startswith("✗ crash: IndexError: list index out of range, line ")
    assert solved == "✓ right: solved"
    held = "this does not hold: def bare(f): assert f(2) == 4 (got 3, expected 4)"
    assert bare == f"✗ double_: {held}"


@pytest.mark.parametrize(
    ("assertion", "shown"),
    [
        ("assert f(2) == 4, 'no'", "no (got 3, expected 4)"),
        ("assert f(2) == \\\n        4, 'no'", "no (got 3, expected 4)"),
        ("assert math.isclose(f(2), 4), 'no'", "no (got 3, expected 4)"),
        ("y = 4\n    assert [f(x) for x in (1, 2)] == [1, y]", "got [2, 3], expected [1, 4])"),
        ("assert f(2) == 4, 'got 3'", "got 3"),
        ("assert f(2) > 4, 'too small'", "too small"),
        ("assert 'a' * 200 == f(2), 'long'", "long"),
        ("assert sum(next(it) for it in [iter([f(2)])]) == 1, 'no'", "no (got 3, expected 1)"),
    ],
)
def test_grade_shows_both_sides_of_a_comparison(assertion, shown, capsys, answers, tmp_path):
    check = written(f"import math\ndef check(f):\n    {assertion}\n", "check", tmp_path)

    def add_one(x):
        return x + 1

    grade(check, add_one)
    assert capsys.readouterr().out.rstrip().endswith(f"{shown}")
    assert not answers.exists(), "nothing was solved"


ANSWER = """
import math
from collections import Counter
import numpy as np

TWO = 2


def helper(x):
    return math.sqrt(x) * TWO


def answer(x: np.ndarray, most: int = TWO) -> float:
    "Twice the root."
    counts = Counter([x])
    return helper(sum(counts)) * np.ones(1).item()
"""


def test_a_solved_answer_is_kept_and_can_be_read_again(answers, tmp_path, capsys):
    attempt = written(ANSWER, "answer", tmp_path)

    def check(f):
        assert f(9) == 6

    grade(check, attempt)
    grade(check, attempt)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"✓ answer: solved (your answers are kept in {answers})"
    assert second == "✓ answer: solved"
    assert [path.name for path in answers.iterdir()] == ["answer.py"]
    kept = (answers / "answer.py").read_text()
    assert not free_names(kept), "the file needs nothing else"
    assert answers_folder() == answers and read_parts()["answer"](9) == 6


def test_an_answer_that_cannot_be_kept_is_graded(answers, tmp_path, capsys):
    answers.write_text("a file where the folder should be")
    grade(lambda f: None, written("def answer(): return 1", "answer", tmp_path))
    assert capsys.readouterr().out.startswith("✓ answer: solved (not kept: ")


def test_an_answer_that_was_broken_by_hand_is_named(answers):
    answers.mkdir()
    (answers / "softmax.py").write_text("def softmax(x):\n    return (\n")
    with pytest.raises(Exception, match=r"softmax.py cannot be run \(SyntaxError.*solve it"):
        read_parts()


def test_progress_has_every_chapter_and_what_is_solved(answers):
    answers.mkdir()
    (answers / "entropy.py").write_text("def entropy(probabilities): return 0.0\n")
    shown = progress(notebooks=NBS)
    assert "✓ entropy" in repr(shown) and "✓ entropy" in shown._repr_markdown_()
    assert repr(shown).count("✓") == 1
    assert len(repr(shown).splitlines()) == len({one.path for one in GRADED})


def test_no_notebooks_no_exercises(tmp_path):
    with pytest.raises(Exception, match="there are no chapters in .*come with its repository"):
        find_exercises(tmp_path)


def test_a_wrong_part_is_named_and_no_other(capsys):
    "Of the parts of its chapter, so that this takes seconds."
    for exercise in [one for one in CORE_ONES if one.wrong]:
        beside = [one for one in CORE_ONES if one.path == exercise.path]
        solved = {one.name: define(one, one.solution, one.name) for one in beside}
        wrong = define(exercise, exercise.wrong, exercise.name)
        assert grade_all(solved | {exercise.name: wrong}, NBS) == [exercise.name]
        out = capsys.readouterr().out.splitlines()
        assert out[0].startswith(f"✗ {exercise.label} {exercise.name}: ") and len(out) >= 2
        assert out[-1] == f"{len(beside) - 1} of {len(beside)} parts are right"


REFUSED, FAILED = "· anything: not graded, because python -O ", "✗ anything: no"


@pytest.mark.parametrize(("option", "verdict"), [("-O", REFUSED), ("-B", FAILED)])
def test_without_assertions_nothing_is_graded(option, verdict):
    "An assertion that Python leaves out would let every answer pass."
    code = """
from lm336.exercises import grade, grade_all
def anything(): return 0
def check(answer): assert answer() == 1, "no"
grade(check, anything)
grade_all({"entropy": anything})
"""
    done = subprocess.run(
        [sys.executable, option, "-c", code],
        cwd=NBS.parent,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout.startswith(verdict), done.stdout
    assert done.stdout.endswith("0 of 1 parts are right\n"), done.stdout


def test_the_course_of_ten_weeks_asks_for_every_core_part_once():
    "Its minutes are those of the chapters and of the exercises, within a quarter."
    row = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (\d+) \+ (\d+) \| .+ \|$", re.M)
    weeks = row.findall(prose("exercises.ipynb"))
    assert [int(number) for number, *_ in weeks] == list(range(1, 11))
    asked = [name for _, _, write, *_ in weeks for name in re.findall(r"\[`(\w+)`\]", write)]
    assert asked == [one.name for one in CORE_ONES]
    minutes = {one.name: one.minutes for one in CORE_ONES}
    for _, read, write, reading, writing in weeks:
        pages = re.findall(r"\((\w+\.ipynb)\)", read)
        said = [re.search(r"(\d+) minutes? to read", prose(page)) for page in pages]
        counted = sum(int(one[1]) for one in said if one)
        assert 0.75 * counted <= int(reading) <= 1.25 * counted + 5, f"{pages}: {counted}"
        names = re.findall(r"\[`(\w+)`\]", write)
        assert int(writing) == sum(minutes[name] for name in names), names
