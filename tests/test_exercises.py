"Every exercise: complete, its solution passes, its stub and its tempting wrong answer do not."
import ast
import functools
import importlib
import json
import linecache
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from lm336 import _modidx
from lm336.exercises import grade

NBS = Path(__file__).parents[1] / "nbs"


def source_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def markdown(cells):
    return "\n".join(text for kind, text in cells if kind == "markdown")


def code(cells):
    return [text for kind, text in cells if kind == "code"]


HEADING = re.compile(r"### Exercise (\d\d)\.(\d+): .+\n\n★{1,3} · \d+ minutes\n")


def heading(kind, text):
    return HEADING.match(text) if kind == "markdown" else None


def found():
    "Each exercise with all that lies between its heading and the next."
    for path in sorted(NBS.glob("*.ipynb")):
        current = None
        for kind, text in source_cells(path):
            if match := heading(kind, text):
                if current:
                    yield current
                chapter, number = match.groups()
                current = SimpleNamespace(
                    path=path, chapter=chapter, number=int(number), cells=[]
                )
            elif current and kind == "markdown" and text.startswith("## "):
                yield current
                current = None
            if current:
                current.cells.append((kind, text))
        if current:
            yield current


EXERCISES = list(found())
GRADED = [e for e in EXERCISES if any("NotImplementedError" in text for text in code(e.cells))]
WRITTEN = [e for e in EXERCISES if e not in GRADED]


def label(exercise):
    return f"{exercise.chapter}.{exercise.number}"


IMPORTS = (ast.Import, ast.ImportFrom)


@functools.cache
def imports(path):
    "What a notebook imports, and its own module's public names."
    names: dict[str, object] = {}
    for text in code(source_cells(path)):
        try:
            body = ast.parse(text).body
        except SyntaxError:
            continue  # a magic
        nodes: list[ast.stmt] = [node for node in body if isinstance(node, IMPORTS)]
        exec(compile(ast.Module(nodes, []), str(path), "exec"), names)
    module = importlib.import_module("lm336." + path.stem.split("_", 1)[1])
    return {**names, **{name: getattr(module, name) for name in module.__all__}}


def define(text, names, name):
    "What a piece of code calls by this name, its lines at hand for tracebacks."
    filename = f"<{name}>"
    linecache.cache[filename] = len(text), None, text.splitlines(True), filename
    exec(compile(text, filename, "exec"), names)
    return names[name]


class Parts(NamedTuple):
    "A graded exercise, taken apart."

    name: str
    stub: str
    check: str
    solution: str
    wrong: str | None  # the tempting wrong answer, where one is given


def fold(exercise, title):
    "What is folded under a title; None for nothing."
    pattern = rf"<details><summary>{title}</summary>\n\n(.*?)\n\n</details>"
    match = re.search(pattern, markdown(exercise.cells), re.S)
    return match and match[1]


def block(exercise, title):
    "The code that is folded under a title; None for nothing."
    match = re.search(r"^```python\n(.*?)^```$", fold(exercise, title) or "", re.S | re.M)
    return match and match[1]


def parts(exercise):
    (stub,) = [text for text in code(exercise.cells) if "NotImplementedError" in text]
    named = re.search(r"^def (\w+)", stub, re.M)
    assert named, "the stub must define a function"
    name = named[1]
    (check,) = [text for text in code(exercise.cells) if f"def check_{name}(" in text]
    assert check.endswith(f"\ngrade(check_{name}, {name})")
    check = check.removesuffix(f"grade(check_{name}, {name})")
    solution = block(exercise, "Solution")
    assert solution and f"def {name}(" in solution
    assert fold(exercise, "Hint")
    return Parts(name, stub, check, solution, block(exercise, "Tempting, and wrong"))


def run(exercise, answer):
    name, _, check, *_ = parts(exercise)
    names = dict(imports(exercise.path))
    verdict = define(check, names, "check_" + name)
    verdict(define(answer, names, name))


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_solution_passes(exercise):
    run(exercise, parts(exercise).solution)


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_stub_is_rejected(exercise):
    with pytest.raises(NotImplementedError):
        run(exercise, parts(exercise).stub)


@pytest.mark.parametrize("exercise", [e for e in GRADED if parts(e).wrong], ids=label)
def test_wrong_answer_is_rejected(exercise):
    with pytest.raises(Exception) as caught:
        run(exercise, parts(exercise).wrong)
    broken = (NotImplementedError, NameError, SyntaxError)
    assert not isinstance(caught.value, broken), "the wrong answer does not even run"


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_stub_is_documented(exercise):
    "What comes in, what goes out, in words beside each parameter."
    name, stub, *_ = parts(exercise)
    function, = [node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
    assert ast.get_docstring(function)
    for arg in function.args.args:
        assert re.search(rf"^ +{arg.arg}\b.* # \S", stub, re.M), f"{name}({arg.arg})"


@pytest.mark.parametrize("exercise", WRITTEN, ids=label)
def test_written_answer_is_folded_and_asserted(exercise):
    folded = markdown(exercise.cells)
    assert re.search(r"<details><summary>Answer</summary>\n\n.+?\n\n</details>", folded, re.S)
    asserting = [text for text in code(exercise.cells) if "assert " in text]
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


CORE = {  # the parts of the model that a reader writes, before the book does
    "entropy", "learn_merges", "apply_merges", "encode", "decode", "windows",
    "linear", "embedding", "initial_weight", "rope", "softmax", "attention",
    "multi_head_attention", "rms_norm", "swiglu", "block", "transformer",
    "cross_entropy", "adamw_step", "clip_gradients", "learning_rate", "train",
    "next_probs", "generate", "evaluate",
}


def test_names_are_their_own():
    "An answer must not hide another, nor what the book defines, core parts aside."
    symbols = [symbol for symbols in _modidx.d["syms"].values() for symbol in symbols]
    public = {symbol.split(".")[2] for symbol in symbols}
    names = [parts(e).name for e in GRADED]
    assert len(set(names)) == len(names) and not (set(names) - CORE) & public


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


def anchors(page):
    "Its headings, as Quarto makes anchors of them."
    titles = re.findall(r"^#+ (.+)$", markdown(source_cells(NBS / page)), re.M)
    plain = [re.sub(r"[^\w\-. ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {re.sub(r"^[^a-z]+", "", title) for title in plain}


def homes():
    "Question of the course -> (page, anchor), from the table."
    text = markdown(source_cells(NBS / "exercises.ipynb"))
    rows = re.findall(r"^\| `(\w+)` \| \[[^]]+\]\((\w+\.ipynb)#([^)]+)\)", text, re.M)
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


def test_grade_says_what_is_wrong(capsys):
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
    grade(define("def bare(f): assert f(2) == 4", {}, "bare"), double_)
    stubbed, wrong, crashed, solved, bare = capsys.readouterr().out.splitlines()
    assert stubbed == "· stub: still a stub"
    assert wrong == "✗ double_: did you square it?"
    assert crashed.startswith("✗ crash: IndexError: list index out of range, line ")
    assert solved == "✓ right: solved"
    assert bare == "✗ double_: this does not hold: def bare(f): assert f(2) == 4"


REFUSED, FAILED = "· anything: not graded, because python -O ", "✗ anything: no"


@pytest.mark.parametrize(("option", "verdict"), [("-O", REFUSED), ("-B", FAILED)])
def test_without_assertions_nothing_is_graded(option, verdict):
    "An assertion that Python leaves out would let every answer pass."
    code = """
from lm336.exercises import grade
def anything(): return 0
def check(answer): assert answer() == 1, "no"
grade(check, anything)
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
