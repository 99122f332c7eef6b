"""What can be counted about the chapters' style; the tests hold what must not slip.

python tests/test_style.py            a table, a row for each chapter
python tests/test_style.py --names    and the names behind every figure that falls short
"""

import argparse
import ast
import json
import re
import statistics
from collections import Counter
from functools import cached_property
from pathlib import Path

import pytest

NBS = Path(__file__).parents[1] / "nbs"
WIDTH = 95  # columns of a line of code
LINES = 25  # of a code cell, blanks and docstrings aside
FUNCTION_LINES = 45  # of a code cell that is one function, counted in the same way
CLASS_LINES = 72  # of a code cell that is one class

ASSERTING = {
    "test_eq", "test_close", "test_fail", "test_ne", "raises",
    "assert_close", "assert_allclose", "assert_array_equal",
}
SILENT = {"forward", "backward", "extra_repr"}  # PyTorch calls them: no cell does


def identifiers(tree):
    "Every name and attribute that a piece of code mentions."
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.asname or node.name


def spanned(node):
    "The numbers of the lines that a piece of code lies on."
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def fails(node):
    "Whether a statement is an assertion, or raises what one raises."
    if isinstance(node, ast.Raise):
        return "AssertionError" in set(identifiers(node))
    return isinstance(node, ast.Assert)


class Cell:
    "A code cell without its directives and magics."

    def __init__(self, text):
        lines = text.splitlines()
        directives = [line for line in lines if line.startswith("#|")]
        code = "\n".join(line for line in lines if line not in directives)
        self.code = re.sub(r"(?m)^([ \t]*)[%!].*", r"\1pass", code).strip()
        self.lines = self.code.splitlines()
        self.tree = ast.parse(self.code)
        self.exported = any(re.match(r"#\| *exports?i?\b", line) for line in directives)
        self.names = set(identifiers(self.tree))

    @property
    def imports(self):
        "Whether it does nothing but import."
        imports = (ast.Import, ast.ImportFrom)
        return bool(self.tree.body) and all(isinstance(n, imports) for n in self.tree.body)

    @property
    def asserts(self):
        return any(map(fails, ast.walk(self.tree))) or bool(self.names & ASSERTING)

    @property
    def functions(self):
        "The functions that it defines."
        return {node.name for node in self.tree.body if isinstance(node, ast.FunctionDef)}

    @cached_property
    def defines(self):
        "The names that the cell gives a value."
        stored = {
            node.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        classes = {node.name for node in self.tree.body if isinstance(node, ast.ClassDef)}
        return stored | self.functions | classes

    @property
    def length(self):
        "Its lines, but for blanks, docstrings and what a class declares for type checkers."
        unread = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                unread |= spanned(node)
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                unread |= spanned(node.body[0])
        numbered = enumerate(self.lines, 1)
        return sum(bool(line.strip()) and number not in unread for number, line in numbered)

    @property
    def most_lines(self):
        "How many lines it may have."
        kinds = [type(node) for node in self.tree.body]
        return {ast.FunctionDef: FUNCTION_LINES, ast.ClassDef: CLASS_LINES}.get(
            kinds[0] if len(kinds) == 1 else None, LINES
        )

    def crowded(self):
        "The lines on which a statement has another before it, or a lambda gets a name."
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.stmt) or ast.unparse(node) == "...":
                continue
            line = self.lines[node.lineno - 1]
            before = line.encode()[: node.col_offset]
            value = node.value if isinstance(node, ast.Assign) else None
            if before.strip() or isinstance(value, ast.Lambda):
                yield line


def patched_to(function):
    "The class that fastcore's `patch` or `patch_to` gives a function to, or None."
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "patch_to":
            return ast.unparse(decorator.args[0])
    if not any("patch" in set(identifiers(one)) for one in function.decorator_list):
        return None
    return ast.unparse(function.args.args[0].annotation).split("|")[0].strip()


class Public:
    "A public name that an exported cell defines: a constant, function, class, or method."

    def __init__(self, name, cell, owner=None):
        self.name = name
        self.cell = cell
        self.label = f"{owner}.{name}" if owner else name


def defined(cell):
    "The names that an exported cell defines, and the classes that own them."
    for node in cell.tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, patched_to(node)
        elif isinstance(node, ast.ClassDef):
            yield node.name, None
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield method.name, node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            if isinstance(node.value, ast.Subscript):  # another name for a type
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in getattr(target, "elts", [target]):
                    if isinstance(name, ast.Name):
                        yield name.id, None


def public(cell):
    "The public ones of them."
    for name, owner in defined(cell):
        if not name.startswith("_") and not (owner or "").startswith("_"):
            yield Public(name, cell, owner)


class Chapter:
    "A notebook that has a module, counted."

    def __init__(self, path):
        self.path = path
        self.name = path.stem
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells[1:]]
        self.kinds = []
        self.code = []
        for kind, text in texts:
            if re.match(r"#\| *(default_exp|hide\n)", text) or not text.strip():
                continue
            self.kinds.append(kind)
            if kind == "code":
                self.code.append(Cell(text))
        self.public = [name for cell in self.code if cell.exported for name in public(cell)]
        self.named = [name for name in self.public if name.name not in SILENT]

    @property
    def lengths(self):
        return sorted(len(cell.lines) for cell in self.code)

    @property
    def prose_per_code(self):
        return self.kinds.count("markdown") / len(self.code)

    @property
    def with_prose_before(self):
        places = [at for at, kind in enumerate(self.kinds) if kind == "code"]
        before = ["markdown" in self.kinds[max(0, at - 2) : at] for at in places]
        return sum(before) / len(places)

    @cached_property
    def own(self):
        "The cells that are the chapter's alone."
        return [cell for cell in self.code if not cell.exported and not cell.imports]

    @cached_property
    def asserted(self):
        "What asserting cells name, and what the cells name that give them their variables."
        found = set()
        helpers = set().union(*(cell.functions for cell in self.own if cell.asserts))
        for at, cell in enumerate(self.own):
            if not cell.asserts and not cell.names & helpers:
                continue
            found |= cell.names
            for name in cell.names - cell.defines:
                sources = [one for one in self.own[:at] if name in one.defines]
                found |= sources[-1].names if sources else set()
        return found

    @property
    def not_asserted(self):
        everywhere = set().union(*(chapter.asserted for chapter in CHAPTERS))
        return [name.label for name in self.named if name.name not in everywhere]

    @property
    def not_shown(self):
        "Names that neither of the next two cells uses that are not exported themselves."
        missing = []
        for name in self.named:
            after = self.code[self.code.index(name.cell) :]
            next_two = [cell for cell in after if cell in self.own][:2]
            if not any(name.name in cell.names for cell in next_two):
                missing.append(name.label)
        return missing

    @property
    def wide(self):
        return [line for cell in self.code for line in cell.lines if len(line) > WIDTH]

    @property
    def long(self):
        counted = [cell for cell in self.code if not cell.imports]
        cells = [cell for cell in counted if cell.length > cell.most_lines]
        return [f"{cell.lines[0]} ({cell.length} lines)" for cell in cells]

    @property
    def crowded(self):
        return [line for cell in self.code for line in cell.crowded()]


def has_module(path):
    return "default_exp" in path.read_text(encoding="utf-8")


CHAPTERS = [Chapter(path) for path in sorted(NBS.glob("*.ipynb")) if has_module(path)]


by_chapter = pytest.mark.parametrize(
    "chapter", [pytest.param(one, id=one.name) for one in CHAPTERS]
)


@by_chapter
def test_no_line_of_code_is_too_wide(chapter):
    assert chapter.wide == []


@by_chapter
def test_no_cell_is_too_long(chapter):
    assert chapter.long == []


@by_chapter
def test_a_line_holds_one_statement_and_a_function_has_its_def(chapter):
    assert chapter.crowded == []


@pytest.mark.parametrize(
    "code, crowded",
    [
        ("a = 1; b = 2", 1),
        ("if a: b = 1", 1),
        ("for a in b: c()\nd()", 1),
        ("def f(): pass", 1),
        ("class A:\n    def f(self): pass", 1),
        ("f = lambda: 1", 1),
        ("try: a()\nexcept B: c()", 2),
        ("with a: b()", 1),
        ("if a:\n    b = sorted(c, key=lambda d: d)\nelse:\n    e()", 0),
        ("a = (\n    1,\n)\nb = 2", 0),
        ("if TYPE_CHECKING:\n    def f(self) -> int: ...", 0),
    ],
)
def test_crowded_lines_are_found(code, crowded):
    assert len(set(Cell(code).crowded())) == crowded


def test_public_names_are_asserted_on():
    missing = [f"{one.name}: {name}" for one in CHAPTERS for name in one.not_asserted]
    assert not missing, f"no asserting cell of a chapter uses {', '.join(missing)}"


def test_one_definition_in_one_place():
    homes = Counter()
    for chapter in CHAPTERS:
        homes.update({name.label for name in chapter.public})
    assert [label for label, count in homes.items() if count > 1] == []


# ---------------------------------------------------------------- a table


def share(missing, names):
    "What part of the names is not among the missing."
    return f"{1 - len(missing) / len(names):4.0%}" if names else "   -"


def row(name, chapters):
    "A line of the table, for one chapter or several."
    lengths = sorted(length for chapter in chapters for length in chapter.lengths)
    size = f"{statistics.median(lengths):3.0f} /{lengths[int(0.9 * (len(lengths) - 1))]:3}"
    prose = sum(chapter.prose_per_code * len(chapter.code) for chapter in chapters)
    before = sum(chapter.with_prose_before * len(chapter.code) for chapter in chapters)
    named = [name for chapter in chapters for name in chapter.named]
    not_asserted = [name for chapter in chapters for name in chapter.not_asserted]
    not_shown = [name for chapter in chapters for name in chapter.not_shown]
    cells = [
        f"{name:18}",
        f"{size} /{lengths[-1]:3}",
        f"{prose / len(lengths):.1f}",
        f"{before / len(lengths):4.0%}",
        f"{len(named):3}",
        share(not_asserted, named),
        share(not_shown, named),
    ]
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", action="store_true", help="list what falls short")
    arguments = parser.parse_args()
    titles = [
        "chapter",
        "lines in a code cell: median / 90 % / longest",
        "prose cells for a code cell",
        "code with prose in the two cells before",
        "public names",
        "asserted on",
        "shown within two cells",
    ]
    print(f"| {' | '.join(titles)} |\n|---|---|--:|--:|--:|--:|--:|")
    for chapter in CHAPTERS:
        print(row(chapter.name, [chapter]))
    print(row("all", CHAPTERS))
    if arguments.names:
        for chapter in CHAPTERS:
            for what in ("not_asserted", "not_shown", "long", "wide", "crowded"):
                found = getattr(chapter, what)
                if found:
                    print(f"\n{chapter.name}, {what.replace('_', ' ')}: {', '.join(found)}")


if __name__ == "__main__":
    main()
