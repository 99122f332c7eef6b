"""Every exercise of every notebook: complete, its solution passes its check, its stub and its tempting wrong answer do not."""
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

import pytest

NBS = Path(__file__).parents[1]/"nbs"


def source_cells(path):
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def heading(kind, text):
    return re.match(r"### Exercise (\d\d)\.(\d+): (.+)\n\n(★{1,3}) · (\d+) minutes\n", text) if kind == "markdown" else None


def found():
    "Each exercise with all that lies between its heading and the next."
    for path in sorted(NBS.glob("*.ipynb")):
        current = None
        for kind, text in source_cells(path):
            if match := heading(kind, text):
                if current:
                    yield current
                current = SimpleNamespace(path=path, chapter=match[1], number=int(match[2]), title=match[3], cells=[])
            elif current and kind == "markdown" and text.startswith("## "):
                yield current
                current = None
            if current:
                current.cells.append((kind, text))
        if current:
            yield current


EXERCISES = list(found())
GRADED = [e for e in EXERCISES if any("NotImplementedError" in text for kind, text in e.cells if kind == "code")]
WRITTEN = [e for e in EXERCISES if e not in GRADED]


def label(exercise):
    return f"{exercise.chapter}.{exercise.number}"


@functools.cache
def imports(path):
    "What a notebook imports, and its own module's public names."
    names = {}
    for kind, text in source_cells(path):
        if kind != "code":
            continue
        try:
            nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        except SyntaxError:
            continue                             # a magic
        exec(compile(ast.Module(nodes, []), str(path), "exec"), names)
    module = importlib.import_module("lm336." + path.stem.split("_", 1)[1])
    return {**names, **{name: getattr(module, name) for name in module.__all__}}


def define(code, names, name):
    filename = f"<{name}>"
    linecache.cache[filename] = len(code), None, code.splitlines(True), filename
    exec(compile(code, filename, "exec"), names)
    return names[name]


def parts(exercise):
    "Name, stub, check, solution and wrong answer (or None) of a graded exercise."
    code = [text for kind, text in exercise.cells if kind == "code"]
    folded = "\n".join(text for kind, text in exercise.cells if kind == "markdown")
    stub, = [text for text in code if "NotImplementedError" in text]
    name = re.search(r"^def (\w+)", stub, re.M)[1]
    check, = [text for text in code if f"def check_{name}(" in text]
    def fold(title):
        match = re.search(rf"<details><summary>{title}</summary>\n\n(.*?)\n\n</details>", folded, re.S)
        return match and match[1]
    def block(title):
        body = fold(title)
        return body and re.search(r"^```python\n(.*?)^```$", body, re.S | re.M)[1]
    assert fold("Hint") and f"def {name}(" in block("Solution")
    assert check.endswith(f"\ngrade(check_{name}, {name})")
    return name, stub, check.removesuffix(f"grade(check_{name}, {name})"), block("Solution"), block("Tempting, and wrong")


def run(exercise, which):
    name, stub, check, solution, wrong = parts(exercise)
    code = {"stub": stub, "solution": solution, "wrong": wrong}[which]
    if code is None:
        pytest.skip("no wrong answer is given")
    names = dict(imports(exercise.path))
    verdict = define(check, names, "check_" + name)
    verdict(define(code, names, name))


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_solution_passes(exercise):
    run(exercise, "solution")


@pytest.mark.parametrize("exercise", GRADED, ids=label)
def test_stub_is_rejected(exercise):
    with pytest.raises(NotImplementedError):
        run(exercise, "stub")


@pytest.mark.parametrize("exercise", [e for e in GRADED if parts(e)[4]], ids=label)
def test_wrong_answer_is_rejected(exercise):
    with pytest.raises(Exception) as caught:
        run(exercise, "wrong")
    assert not isinstance(caught.value, (NotImplementedError, NameError, SyntaxError)), "the wrong answer does not even run"


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
    folded = "\n".join(text for kind, text in exercise.cells if kind == "markdown")
    assert re.search(r"<details><summary>Answer</summary>\n\n.+?\n\n</details>", folded, re.S)
    assert any("assert " in text for kind, text in exercise.cells if kind == "code"), "nothing in the answer is asserted"


def test_every_chapter_has_three_to_six():
    for path in sorted(NBS.glob("[01]*.ipynb")):
        numbers = [e.number for e in EXERCISES if e.path == path]
        if numbers:
            assert len(numbers) in range(3, 7), path.name
        assert numbers == list(range(1, len(numbers) + 1)), f"{path.name}: {numbers}"
        assert all(e.chapter == path.name[:2] for e in EXERCISES if e.path == path)


def test_names_are_their_own():
    "An answer must not hide what the book defines, nor another answer."
    from lm336 import _modidx
    public = {symbol.split(".")[2] for symbols in _modidx.d["syms"].values() for symbol in symbols}
    names = [parts(e)[0] for e in GRADED]
    assert len(set(names)) == len(names) and not set(names) & public


CODE = ["train_bpe", "tokenizer", "linear", "embedding", "rmsnorm", "positionwise_feedforward", "rope", "softmax", "scaled_dot_product_attention", "multihead_self_attention", "transformer_block", "transformer_lm", "cross_entropy", "adamw", "learning_rate_schedule", "gradient_clipping", "data_loading", "checkpointing", "training_together", "decoding", "experiment_log"]
WORDS = ["unicode1", "unicode2", "train_bpe_tinystories", "train_bpe_expts_owt", "tokenizer_experiments", "transformer_accounting", "learning_rate_tuning", "adamwAccounting", "learning_rate", "batch_size_experiment", "generate", "layer_norm_ablation", "pre_norm_ablation", "no_pos_emb", "swiglu_ablation", "main_experiment", "leaderboard"]                     # the handout's questions, by what they ask for


def anchors(page):
    "Its headings, as Quarto makes anchors of them."
    titles = re.findall(r"^#+ (.+)$", "\n".join(text for kind, text in source_cells(NBS/page) if kind == "markdown"), re.M)
    return {re.sub(r"^[^a-z]+", "", re.sub(r"[^\w\-. ]", "", title.lower()).replace(" ", "-")) for title in titles}


def homes():
    "Question of the course -> (page, anchor), from the table."
    table = "\n".join(text for _, text in source_cells(NBS/"exercises.ipynb") if "| question |" in text)
    return {name: (page, anchor) for name, page, anchor in re.findall(r"^\| `(\w+)` \| \[[^]]+\]\((\w+\.ipynb)#([^)]+)\)", table, re.M)}


def test_every_question_of_the_course_has_a_home():
    assert sorted(homes()) == sorted(CODE + WORDS)
    for name, (page, anchor) in homes().items():
        assert anchor in anchors(page), f"{name}: {page}#{anchor}"


@pytest.mark.parametrize("name", WORDS)
def test_a_question_asked_in_words_is_answered_in_an_exercise(name):
    "The exercise names the question, and the table leads there."
    tagged = [e for e in EXERCISES if re.search(rf"\(.*`{name}`.* of CS336\.\)", e.cells[0][1])]
    assert len(tagged) == 1, f"{name} is named by {len(tagged)} exercises"
    page, anchor = homes()[name]
    assert page == tagged[0].path.name and anchor.startswith(f"exercise-{label(tagged[0])}-")


def test_grade_says_what_is_wrong(capsys):
    from lm336.exercises import grade
    def check(f):
        if f(2) != 4:
            raise AssertionError("did you square it?")      # a bare assert would be rewritten by pytest
    def stub(x):
        raise NotImplementedError
    def double_(x):
        return x + 1
    def crash(x):
        return undefined
    def right(x):
        return x * x
    for attempt in (stub, double_, crash, right):
        grade(check, attempt)
    grade(define("def bare(f): assert f(2) == 4", {}, "bare"), double_)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "· stub: still a stub" and lines[1].startswith("✗ double_: did you square it?") and lines[3] == "✓ right: solved"
    assert lines[2].startswith("✗ crash: NameError: name 'undefined' is not defined, line ")
    assert lines[4] == "✗ double_: this does not hold: def bare(f): assert f(2) == 4"


@pytest.mark.parametrize("option, verdict", [("-O", "· anything: not graded, because python -O "), ("-B", "✗ anything: no")])
def test_without_assertions_nothing_is_graded(option, verdict):
    "An assertion that Python leaves out would let every answer pass."
    code = """from lm336.exercises import grade
def anything(): return 0
def check(answer): assert answer() == 1, "no"
grade(check, anything)"""
    done = subprocess.run([sys.executable, option, "-c", code], cwd=NBS.parent, capture_output=True, text=True, encoding="utf-8",
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"}, timeout=120, check=True)
    assert done.stdout.startswith(verdict), done.stdout
