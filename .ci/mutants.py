"""Do the chapters and the tests notice a fault? Plant one at a time, and see who goes red.

    python .ci/mutants.py list                    the mutants that a run would try
    python .ci/mutants.py run [--only TEXT ...]   try those not in the log, each in a copy
    python .ci/mutants.py table                   what the log says

A mutant is one change in one exported line: a comparison, an operator, a number, a condition,
or a statement that goes. It is planted in the cell of the notebook that exports it (a chapter
defines what it exports and never imports its own module), in the file itself where there is
no notebook, and in the page's JavaScript. It is killed if that notebook goes red, or a test
of those that mention the module.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LOG = ROOT / "benchmarks" / "mutants.jsonl"
SEED, PYTHON_MUTANTS, WEB_MUTANTS, LEAST = 336, 60, 20, 2
SECONDS = 900  # for a notebook, or for the tests: a mutant may never end

COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
OPERATORS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*",
    ast.Pow: "*", ast.MatMult: "*", ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
SCRIPT = {
    " < ": " <= ", " > ": " >= ", " <= ": " < ", " >= ": " > ", " === ": " !== ",
    " !== ": " === ", " + ": " - ", " - ": " + ", " * ": " / ", " / ": " * ",
    " && ": " || ", " || ": " && ", "++": "--", "Math.max": "Math.min", "Math.min": "Math.max",
}  # fmt: skip


class Mutant(NamedTuple):
    "One planted fault."

    module: str  # or the name of a JavaScript file
    file: str  # that is changed, from the repository's root
    cell: str  # the id of the notebook's cell; "" for a file without cells
    line: int  # of the cell or the file, from 1
    before: str  # the line
    after: str  # what stands there instead


def is_text(node: ast.AST) -> bool:
    "Whether it is a string: what joins it to another by / or + only breaks when that changes."
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def replacements(tree: ast.AST, text: str) -> Iterator[tuple[ast.AST, str]]:
    "(a node of the syntax, what could stand in its place) for every change that we know."

    def written(node):
        return ast.get_source_segment(text, node)

    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            sign = COMPARISONS[type(node.ops[0])]
            yield node, f"{written(node.left)} {sign} {written(node.comparators[0])}"
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            if not is_text(node.left) and not is_text(node.right):
                sign = OPERATORS[type(node.op)]
                yield node, f"({written(node.left)}) {sign} ({written(node.right)})"
        elif isinstance(node, ast.BoolOp):
            word = " or " if isinstance(node.op, ast.And) else " and "
            yield node, word.join(f"({written(value)})" for value in node.values)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, f"bool({written(node.operand)})"
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            other = not node.value if type(node.value) is bool else node.value + 1
            yield node, repr(other)
        elif isinstance(node, (ast.AugAssign, ast.Raise)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield node, "pass"


def candidates(text: str) -> Iterator[tuple[int, str, str]]:
    "(line, as it is, as it could be) for every change of one line of a function or class."
    lines = text.splitlines()
    for body in ast.parse(text).body:
        if not isinstance(body, (ast.FunctionDef, ast.ClassDef)):
            continue
        signatures = set()
        for node in ast.walk(body):
            if isinstance(node, ast.FunctionDef):
                signatures |= set(range(node.lineno, node.body[0].lineno))
        for node, new in replacements(body, text):
            start, end = node.lineno, node.end_lineno
            if start != end or start in signatures:
                continue
            line = lines[start - 1].encode("utf-8")
            changed = line[: node.col_offset] + new.encode() + line[node.end_col_offset :]
            yield start, lines[start - 1], changed.decode("utf-8")


def exported_cells(notebook: Path) -> Iterator[tuple[str, str]]:
    "(id, code) of the cells that go into the module."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] == "code" and re.match(r"#\| *exports?\b", code):
            yield cell["id"], code


def python_mutants() -> dict[str, list[Mutant]]:
    "Every mutant of every module."
    found: dict[str, list[Mutant]] = {}
    chapters = {}
    for notebook in sorted((ROOT / "nbs").glob("*.ipynb")):
        name = re.search(r"#\| default_exp (\w+)", notebook.read_text(encoding="utf-8"))
        if name:
            chapters[name[1]] = notebook
    for path in sorted((ROOT / "lm336").glob("[a-z]*.py")):
        notebook = chapters.get(path.stem)
        if notebook:
            pieces, file = list(exported_cells(notebook)), notebook
        else:
            pieces, file = [("", path.read_text(encoding="utf-8"))], path
        where = str(file.relative_to(ROOT))
        for cell, text in pieces:
            for line, before, after in candidates(text):
                mutant = Mutant(path.stem, where, cell, line, before, after)
                found.setdefault(path.stem, []).append(mutant)
    return found


def web_mutants() -> list[Mutant]:
    "Every mutant of the page's JavaScript."
    found = []
    for path in sorted((ROOT / "lm336" / "web").glob("*.js")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = line.partition("//")[0]
            for old, new in SCRIPT.items():
                if old in code and not line.strip().startswith(("*", "/*", "import")):
                    where = str(path.relative_to(ROOT))
                    changed = line.replace(old, new, 1)
                    found.append(Mutant(path.name, where, "", number, line, changed))
    return found


def chosen() -> list[Mutant]:
    "The mutants of a run: the same for the same text, at least two of each module."
    rng = random.Random(SEED)
    of_module, taken = python_mutants(), []
    for mutants in of_module.values():
        rng.shuffle(mutants)
        taken += mutants[:LEAST]
    others = [mutant for mutants in of_module.values() for mutant in mutants[LEAST:]]
    taken += rng.sample(others, max(0, PYTHON_MUTANTS - len(taken)))
    return taken + rng.sample(web_mutants(), WEB_MUTANTS)


def planted(mutant: Mutant, root: Path):
    "Change the copy at `root`."
    path = root / mutant.file
    text = path.read_text(encoding="utf-8")
    if not mutant.cell:
        lines = text.splitlines(keepends=True)
        assert lines[mutant.line - 1].rstrip("\n") == mutant.before
        lines[mutant.line - 1] = mutant.after + "\n"
        path.write_text("".join(lines), encoding="utf-8")
        return
    notebook = json.loads(text)
    cell = next(cell for cell in notebook["cells"] if cell["id"] == mutant.cell)
    lines = "".join(cell["source"]).splitlines(keepends=True)
    assert lines[mutant.line - 1].rstrip("\n") == mutant.before
    lines[mutant.line - 1] = mutant.after + "\n" * lines[mutant.line - 1].endswith("\n")
    cell["source"] = lines
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def went_well(command: list[str], root: Path) -> bool:
    "Whether a command in the copy ends with status 0, in time."
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, timeout=SECONDS, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def tests_of(module: str, root: Path) -> list[str]:
    "The test files that mention a module, its own first."
    stem = module.removesuffix(".js")
    own = [f"tests/test_{stem}.py"]
    if module.endswith(".js"):
        own = ["tests/test_web.py", "tests/test_page.py"]
    for path in sorted((root / "tests").glob("test_*.py")):
        if re.search(rf"\b{re.escape(stem)}\b", path.read_text(encoding="utf-8")):
            own.append(f"tests/{path.name}")
    there = [name for name in dict.fromkeys(own) if (root / name).exists()]
    slow = {"tests/test_lab.py", "tests/test_rendered.py", "tests/test_install.py"}
    return [name for name in there if name not in slow]


def killer(mutant: Mutant, root: Path) -> str:
    "Who went red: the notebook, a test file, or nobody, which is ''."
    tool = Path(sys.executable)
    if mutant.cell and not went_well([str(tool.with_name("nbdev_export"))], root):
        return "nbdev_export"
    if mutant.cell:
        test = [str(tool.with_name("nbdev_test")), "--path", mutant.file, "--n_workers", "1"]
        if not went_well(test, root):
            return mutant.file
    for name in tests_of(mutant.module, root):
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", name]
        if not went_well(command, root):
            return name
    return ""


def described(mutant: Mutant) -> str:
    "Where it is and what it changes."
    before, after = mutant.before.strip(), mutant.after.strip()
    return f"{mutant.file}:{mutant.line}\n  - {before}\n  + {after}"


def tried() -> list[dict]:
    "What the log has."
    if not LOG.exists():
        return []
    return [json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()]


def run(only: list[str]):
    "Try what the log has not, each in a fresh copy of what git tracks."
    known = {json.dumps(record["mutant"]) for record in tried()}
    for mutant in chosen():
        label = described(mutant)
        wanted = not only or any(text in label for text in only)
        if json.dumps(mutant) in known or not wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "lm336")
            subprocess.run(["git", "clone", "-q", str(ROOT), str(root)], check=True)
            shared = ROOT.parent / "shared"
            if shared.exists():
                Path(folder, "shared").symlink_to(shared)
            planted(mutant, root)
            by = killer(mutant, root)
            shutil.rmtree(root)
        print(f"{by or 'SURVIVES'}: {label}", flush=True)
        with LOG.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"mutant": mutant, "killed_by": by}) + "\n")


def table():
    "How many died, and which did not."
    records = tried()
    dead = [record for record in records if record["killed_by"]]
    print(f"{len(dead)} of {len(records)} mutants killed")
    for record in records:
        if not record["killed_by"]:
            print(described(Mutant(*record["mutant"])))


def main():
    "Read the command line."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["list", "run", "table"])
    parser.add_argument("--only", nargs="*", default=[], help="those that have one of these")
    args = parser.parse_args()
    if args.what == "run":
        run(args.only)
    elif args.what == "table":
        table()
    else:
        for mutant in chosen():
            print(described(mutant))


if __name__ == "__main__":
    main()
