"""What can be counted about the chapters' style; the tests hold what must not slip.

    python tests/test_style.py            a table, a row for each chapter
    python tests/test_style.py --names    and the names behind every figure that falls short
"""
import argparse, ast, io, json, re, statistics, tokenize
from collections import Counter
from functools import cached_property
from pathlib import Path

import pytest

NBS = Path(__file__).parents[1]/"nbs"
ASSERTING = {"test_eq", "test_close", "test_fail", "test_ne", "assert_close", "assert_allclose", "assert_array_equal", "raises"}
SILENT = {"forward", "backward", "extra_repr"}   # methods that PyTorch calls: no cell names them


def identifiers(tree):
    "Every name and attribute that a piece of code mentions."
    for node in ast.walk(tree):
        if isinstance(node, ast.Name): yield node.id
        elif isinstance(node, ast.Attribute): yield node.attr
        elif isinstance(node, ast.alias): yield node.asname or node.name


class Cell:
    "A code cell without its directives and magics."
    def __init__(self, text):
        lines = text.splitlines()
        self.directives = [line for line in lines if line.startswith("#|")]
        self.code = "\n".join(re.sub(r"^\s*[%!].*", "pass", line) for line in lines if not line.startswith("#|")).strip()
        self.length = len(self.code.splitlines())
        self.tree = ast.parse(self.code)
        self.exported = any(re.match(r"#\| *exporti?\b", line) for line in self.directives)
        self.names = set(identifiers(self.tree))
        self.imports = bool(self.tree.body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in self.tree.body)

    @property
    def asserts(self):
        def fails(node): return isinstance(node, ast.Assert) or isinstance(node, ast.Raise) and "AssertionError" in set(identifiers(node))
        return any(map(fails, ast.walk(self.tree))) or bool(self.names & ASSERTING)

    @cached_property
    def defines(self):
        "The names that the cell gives a value."
        stored = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        return stored | {node.name for node in self.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def comments(code):
    "Line number -> whether a comment stands on it."
    return {token.start[0] for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.COMMENT}


class Public:
    "A public name that an exported cell defines: a constant, function, class, or method."
    def __init__(self, name, node, cell, owner=None):
        self.name, self.node, self.cell, self.owner = name, node, cell, owner
        self.label = f"{owner}.{name}" if owner else name

    @property
    def is_code(self): return not isinstance(self.node, (ast.Assign, ast.AnnAssign))

    @property
    def has_docstring(self): return not self.is_code or self.name == "extra_repr" or bool(ast.get_docstring(self.node))

    @cached_property
    def undocumented(self):
        "Its parameters, or the fields of a dataclass, that have no comment beside them."
        commented = comments(self.cell.code)
        def without(nodes): return [name for name, first, last in nodes if not commented & set(range(first, last + 1))]
        if isinstance(self.node, ast.FunctionDef): return without(parameters(self.node))
        if not isinstance(self.node, ast.ClassDef): return []
        fields = [(f.target.id, f.lineno, f.end_lineno) for f in self.node.body if isinstance(f, ast.AnnAssign)]
        init = [parameters(f) for f in self.node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
        return without(fields + sum(init, []))


def parameters(function):
    "(name, first line, last line) of what is given to a function; the help of a `Param` stands for a comment."
    a = function.args
    given = a.posonlyargs + a.args + ([a.vararg] if a.vararg else []) + a.kwonlyargs + ([a.kwarg] if a.kwarg else [])
    given = [p for p in given if p.arg not in ("self", "cls") and not (isinstance(p.annotation, ast.Call) and p.annotation.func.id == "Param")]
    return [(p.arg, p.lineno, p.end_lineno) for p in given]


def patched_to(function):
    "The class that fastcore's `patch` gives a function to; None for a plain one."
    if not any("patch" in set(identifiers(decorator)) for decorator in function.decorator_list): return None
    return ast.unparse(function.args.args[0].annotation).split("|")[0].strip()


def is_public(name): return not name.startswith("_")


def defined(cell):
    "The public names that an exported cell defines."
    for node in cell.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            owner = patched_to(node) if isinstance(node, ast.FunctionDef) else None
            if is_public(node.name) and not (owner or "").startswith("_"): yield Public(node.name, node, cell, owner)
            if isinstance(node, ast.ClassDef) and is_public(node.name):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and is_public(method.name): yield Public(method.name, method, cell, node.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for name in getattr(target, "elts", [target]):
                    if isinstance(name, ast.Name) and is_public(name.id): yield Public(name.id, node, cell)


class Chapter:
    "A notebook that has a module, counted."
    def __init__(self, path):
        self.path, self.module = path, re.sub(r"^\d+_", "", path.stem)
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        counted = [(kind, text if kind == "markdown" else Cell(text)) for kind, text in cells[1:]
                   if not re.match(r"#\| *(default_exp|hide\n)", text) and text.strip()]
        self.kinds = [kind for kind, _ in counted]
        self.code = [cell for kind, cell in counted if kind == "code"]
        self.public = [name for cell in self.code if cell.exported for name in defined(cell)]

    @cached_property
    def lengths(self): return sorted(cell.length for cell in self.code)

    @property
    def prose_per_code(self): return self.kinds.count("markdown") / len(self.code)

    @property
    def with_prose_before(self):
        places = [i for i, kind in enumerate(self.kinds) if kind == "code"]
        return sum("markdown" in self.kinds[max(0, i - 2):i] for i in places) / len(places)

    @property
    def bare(self): return [name.label for name in self.public if not name.has_docstring]

    @property
    def undocumented(self): return [f"{name.label}({', '.join(name.undocumented)})" for name in self.public if name.undocumented]

    @property
    def named(self): return [name for name in self.public if name.name not in SILENT]

    @cached_property
    def own(self): return [cell for cell in self.code if not cell.exported and not cell.imports]

    @cached_property
    def asserted(self):
        "What the asserting cells name, and what the cells name that give them their variables."
        found = set()
        for at, cell in enumerate(self.own):
            if not cell.asserts: continue
            found |= cell.names
            for name in cell.names - cell.defines:
                source = next((earlier for earlier in reversed(self.own[:at]) if name in earlier.defines), None)
                if source: found |= source.names
        return found

    @property
    def not_asserted(self):
        everywhere = set().union(*(chapter.asserted for chapter in CHAPTERS))
        return [name.label for name in self.named if name.name not in everywhere]

    @property
    def not_shown(self):
        "Names that neither of the next two cells uses that are not exported themselves."
        def shown(name):
            after = [cell for cell in self.code[self.code.index(name.cell):] if cell in self.own]
            return any(name.name in cell.names for cell in after[:2])
        return [name.label for name in self.named if not shown(name)]

    @property
    def long(self): return [f"{cell.code.splitlines()[0]} ({cell.length} lines)" for cell in self.code if cell.length > 25]


CHAPTERS = [Chapter(path) for path in sorted(NBS.glob("*.ipynb")) if "default_exp" in path.read_text(encoding="utf-8")]
by_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
NUMBERED = [chapter for chapter in CHAPTERS if chapter.path.stem[:2].isdigit()]


@by_chapter
def test_every_public_name_has_a_docstring(chapter): assert chapter.bare == []


@by_chapter
def test_every_parameter_has_a_comment(chapter): assert chapter.undocumented == []


def test_public_names_are_asserted_on():
    names, missing = sum(len(chapter.named) for chapter in CHAPTERS), [f"{c.path.stem}: {name}" for c in CHAPTERS for name in c.not_asserted]
    assert len(missing) <= 0.05 * names, f"{len(missing)} of {names}: {missing}"


def test_one_definition_in_one_place():
    homes = Counter()
    for chapter in CHAPTERS: homes.update({name.label for name in chapter.public})
    assert [label for label, count in homes.items() if count > 1] == []


def is_foundation(path):
    "A module written by hand, which no chapter exports and every chapter may use."
    return not path.name.startswith("__") and "# AUTOGENERATED" not in path.read_text(encoding="utf-8")


FOUNDATION = [path for path in sorted((NBS.parent/"lm336").glob("*.py")) if is_foundation(path)]


@pytest.mark.parametrize("path", FOUNDATION, ids=lambda path: path.stem)
def test_the_foundation_rests_on_no_chapter(path):
    used = {node.module for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("lm336"))}
    rests_on = {"configuration": {"transformer"}}        # a run's numbers hold a model's
    assert used <= {other.stem for other in FOUNDATION} | rests_on.get(path.stem, set())


OFFERED = {("transformer", "generation")}   # (a chapter, one behind it): imported by the function that offers it, when it is called


@pytest.mark.parametrize("chapter", NUMBERED, ids=lambda chapter: chapter.path.stem)
def test_a_module_uses_only_those_above_it(chapter):
    above = {other.module for other in NUMBERED[:NUMBERED.index(chapter)]} | {path.stem for path in FOUNDATION}
    def is_program(node): return isinstance(node, ast.If) and bool({"__name__", "TYPE_CHECKING"} & set(identifiers(node.test)))
    statements = [node for cell in chapter.code if cell.exported for node in cell.tree.body if not is_program(node)]
    for statement in statements:
        inside = isinstance(statement, (ast.FunctionDef, ast.ClassDef))
        for node in ast.walk(statement):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("lm336"): continue
            used = {node.module.partition(".")[2]} - {""} or {alias.name for alias in node.names if (NBS.parent/f"lm336/{alias.name}.py").exists()}
            if inside: used -= {behind for module, behind in OFFERED if module == chapter.module}
            assert used <= above, f"{chapter.path.name} exports an import of {', '.join(used - above)}"


def share(missing, of): return f"{1 - len(missing) / len(of):4.0%}" if of else "   -"


def row(stem, lengths, prose, before, chapters):
    named, public = ([name for c in chapters for name in getattr(c, kind)] for kind in ("named", "public"))
    lists = [(sum((getattr(c, kind) for c in chapters), []), names) for kind, names in
             (("bare", public), ("undocumented", public), ("not_asserted", named), ("not_shown", named))]
    size = f"{statistics.median(lengths):3.0f} /{lengths[int(0.9 * (len(lengths) - 1))]:3} /{lengths[-1]:3}"
    return f"| {stem:15} | {size} | {prose:.1f} | {before:4.0%} | {len(public):3} | " + " | ".join(share(*pair) for pair in lists) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", action="store_true", help="list the names that fall short")
    print("| chapter | lines in a code cell: median / 90 % / longest | prose cells for a code cell | code with prose in the two cells before "
          "| public names | docstring | docments | asserted on | shown within two cells |\n|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for c in CHAPTERS: print(row(c.path.stem, c.lengths, c.prose_per_code, c.with_prose_before, [c]))
    code = sum(len(c.code) for c in CHAPTERS)
    print(row("all", sorted(sum((c.lengths for c in CHAPTERS), [])), sum(c.kinds.count("markdown") for c in CHAPTERS) / code,
              sum(c.with_prose_before * len(c.code) for c in CHAPTERS) / code, CHAPTERS))
    if not parser.parse_args().names: return
    for c in CHAPTERS:
        for what in ("bare", "undocumented", "not_asserted", "not_shown", "long"):
            if found := getattr(c, what): print(f"\n{c.path.stem}, {what.replace('_', ' ')}: {', '.join(found)}")


if __name__ == "__main__": main()
