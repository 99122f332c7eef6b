"""The house: which room may lean on which, how large a room is, and what stands at its door.

Read from the modules' syntax, without importing them.
"""

import ast
import functools
import io
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "lm336"

FOUNDATION = ["errors", "files", "folders", "texts", "tensors"]
MAIN_LINE = [
    "corpus", "bpe", "tokenizer_json", "tokenizer", "dataset",
    "embeddings", "rope", "attention", "block", "transformer",
    "loss", "adamw", "schedule",
    "configuration", "devices", "checkpoints", "run_folder",
    "watch", "training", "fast_trainer", "resumable_trainer", "runs",
    "generation", "evaluation",
]
UNDER_THE_HOOD = [
    "grammar", "download",
    "fast_bpe", "fast_model", "fast_training", "fast_generation",
    "accounting", "backward", "automaton", "muon",
]
BEHIND = [
    "oracle", "causes", "report", "experiments", "scaling", "speedrun", "bug_zoo",
    "questions", "exercises", "widgets", "interop", "cli",
]
ORDER = [*FOUNDATION, *MAIN_LINE, *UNDER_THE_HOOD, *BEHIND]

# A room of the main line offers what lies behind it by an import inside the function that
# offers it: (module, the later one that it reaches) -> why.
DOORS: dict[tuple[str, str], str] = {
    ("devices", "accounting"): "`pick_precision` asks what the processor multiplies",
    ("fast_trainer", "accounting"): "how long a run is decides whether it is compiled",
    ("fast_trainer", "fast_training"): "the fast updates are used by default",
    ("runs", "accounting"): "a run measures its memory",
    ("runs", "report"): "a run draws its curve and writes its account",
    ("evaluation", "fast_training"): "`token_losses` takes PyTorch's kernel",
    ("tokenizer", "fast_bpe"): "training, long words, long texts and files",
    ("corpus", "grammar"): "`corpus_files` writes the built-in stories",
    ("corpus", "download"): "`corpus_files` fetches TinyStories",
    ("evaluation", "grammar"): "`entropy_floor` is known for the built-in stories",
    ("run_folder", "fast_model"): "`load_run` opens a model to be used",
    ("fast_trainer", "fast_model"): "a run trains the fast model",
    ("transformer", "generation"): "`Transformer.generate` is chapter 14's",
    ("generation", "fast_generation"): "steps and draws in fewer operations, stop strings",
}

WIDTH = 95  # columns of a line
LINES = 250  # of a room of the main line, blanks and docstrings aside


def modules(names=ORDER):
    "The modules of these names that are there, each a test's parameter."
    return [name for name in names if (PACKAGE / f"{name}.py").exists()]


@functools.cache
def source(module):
    return (PACKAGE / f"{module}.py").read_text(encoding="utf-8")


@functools.cache
def tree(module):
    return ast.parse(source(module))


def parametrize(names):
    "A test for each module of these names."
    return pytest.mark.parametrize("module", modules(names))


# ---------------------------------------------------------------- who leans on whom


def rooms(node):
    "The modules of lm336 that an import statement reaches."
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.level:
        base = ".".join(["lm336", *filter(None, [node.module])])
        names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
    else:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    found = {name.split(".")[1] for name in names if name.startswith("lm336.")}
    return {name for name in found if name in ORDER or (PACKAGE / f"{name}.py").exists()}


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def imports(node, inside=False):
    "(a module that is imported, whether inside a function) below a node of the syntax."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for room in rooms(child):
                yield room, inside
        elif is_for_type_checkers(child):
            continue
        else:
            within = isinstance(child, (ast.FunctionDef, ast.Lambda))
            yield from imports(child, inside or within)


def test_every_module_has_its_place_in_the_order():
    there = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    missing = ", ".join(sorted(there - set(ORDER)))
    assert not missing, f"put {missing} into a list above, after the modules it imports"


@parametrize(ORDER)
def test_a_module_leans_only_on_those_before_it(module):
    "So that there is no circle, and the order of the chapters is the order of the parts."
    before = set(ORDER[: ORDER.index(module)])
    used = {room for room, inside in imports(tree(module)) if not inside}
    assert used <= before, f"{module} imports {', '.join(sorted(used - before))}"


@parametrize(ORDER)
def test_a_door_to_a_later_room_is_in_the_table(module):
    before = set(ORDER[: ORDER.index(module)])
    reached = {room for room, inside in imports(tree(module)) if inside} - before
    named = {later for earlier, later in DOORS if earlier == module}
    assert reached <= named, f"{module} reaches {', '.join(sorted(reached - named))}"
    assert named <= reached, f"{module} does not reach {', '.join(sorted(named - reached))}"


def test_only_the_main_line_has_doors():
    assert {earlier for earlier, _ in DOORS} <= {*FOUNDATION, *MAIN_LINE}


@pytest.mark.parametrize(
    "code, found",
    [
        ("from .corpus import read_text", {("corpus", False)}),
        ("from . import corpus, nothing", {("corpus", False)}),
        ("import lm336.corpus", {("corpus", False)}),
        ("from lm336 import corpus", {("corpus", False)}),
        ("try:\n    from .corpus import x\nexcept ImportError: pass", {("corpus", False)}),
        ("def f():\n    if x:\n        from .corpus import y", {("corpus", True)}),
        ("class A:\n    from .corpus import y", {("corpus", False)}),
        ("if TYPE_CHECKING:\n    from .corpus import y", set()),
        ("import corpus\nfrom corpus import lm336", set()),
    ],
)
def test_an_import_is_found_however_it_is_written(code, found):
    assert set(imports(ast.parse(code))) == found


# ---------------------------------------------------------------- how large a room is


def spanned(node):
    "The numbers of the lines that a piece of code lies on."
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def written(module):
    "(number, line) for each line of a module but those that nbdev writes and wraps."
    generated = set()
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            generated |= spanned(node)
    for number, line in enumerate(source(module).splitlines(), 1):
        if number not in generated and not line.startswith(("# %%", "# AUTOGENERATED")):
            yield number, line


def length(module):
    "Its lines of code and comments, without blanks, docstrings, signatures for type checkers."
    unread = set()
    for node in ast.walk(tree(module)):
        if is_for_type_checkers(node):
            unread |= spanned(node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                unread |= spanned(first)
    return sum(
        bool(line.strip()) and number not in unread for number, line in written(module)
    )


@parametrize(ORDER)
def test_no_line_of_a_module_is_too_wide(module):
    assert [line for _, line in written(module) if len(line) > WIDTH] == []


@parametrize(MAIN_LINE)
def test_a_module_of_the_main_line_can_be_read_in_one_sitting(module):
    assert length(module) <= LINES


# ---------------------------------------------------------------- what stands at its door


class Public(NamedTuple):
    "A public function, method or class, with the lines on which its module has comments."

    label: str
    node: ast.FunctionDef | ast.ClassDef
    is_method: bool


def definitions(body, owner=""):
    "The public functions, methods and classes that a module or a class defines."
    for node in body:
        if isinstance(node, ast.FunctionDef) and is_public(node):
            yield Public(f"{owner}{node.name}", node, bool(owner) or is_patched(node))
        if isinstance(node, ast.ClassDef) and is_public(node) and not owner:
            yield Public(node.name, node, False)
            yield from definitions(node.body, f"{node.name}.")


def decorators(node):
    return {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}


def is_patched(function):
    "Whether fastcore's `patch` or `patch_to` makes it a method."
    return bool(decorators(function) & {"patch", "patch_to"})


def is_public(node):
    "Whether it is for users; a method that is patched to a private class is not."
    if isinstance(node, ast.FunctionDef) and is_patched(node):
        owner = node.args.args[0].annotation
        if owner is not None and ast.unparse(owner).startswith("_"):
            return False
    return node.name == "__init__" or not node.name.startswith("_")


def has_fields(node):
    "Whether a class says by its annotations what it is made from."
    return "dataclass" in decorators(node) or any(
        ast.unparse(base) == "NamedTuple" for base in node.bases
    )


def parameters(public):
    "The parameters of a function or a method, without self; the fields of a dataclass."
    if isinstance(public.node, ast.ClassDef):
        fields = [part for part in public.node.body if isinstance(part, ast.AnnAssign)]
        named = [(ast.unparse(field.target), field, field.annotation) for field in fields]
        return named if has_fields(public.node) else []
    given = public.node.args
    named = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    found = [(one.arg, one, one.annotation) for one in named if one is not None]
    static = "staticmethod" in decorators(public.node)
    return found[1:] if public.is_method and not static else found


def gives(function):
    "Whether a function returns or yields a value, those defined inside it aside."
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Return) and node.value is not None:
            return not (isinstance(node.value, ast.Constant) and node.value.value is None)
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        waiting += ast.iter_child_nodes(node)
    return False


@functools.cache
def commented(module):
    "The lines of a module on which a comment stands."
    tokens = tokenize.generate_tokens(io.StringIO(source(module)).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def faults(module):
    "What is missing at a module's public names: a docstring, an annotation, a comment."
    lines = commented(module)
    for public in definitions(tree(module).body):
        label, node = public.label, public.node
        if not ast.get_docstring(node) and node.name not in ("__init__", "extra_repr"):
            yield f"{label} has no docstring"
        for name, given, annotation in parameters(public):
            if annotation is None:
                yield f"{label}({name}) has no annotation"
            if not lines & spanned(given):
                yield f"{label}({name}) has no comment"
        if isinstance(node, ast.FunctionDef) and node.returns is None and gives(node):
            yield f"{label} does not say what it returns"


@parametrize(ORDER)
def test_every_public_signature_is_annotated_and_documented(module):
    found = list(faults(module))
    assert not found, f"lm336/{module}.py: " + "; ".join(found)


def test_no_function_is_named_like_a_module():
    named = {
        f"{module}.{public.label}"
        for module in modules()
        for public in definitions(tree(module).body)
        if public.label in ORDER
    }
    assert not named


if __name__ == "__main__":  # a table: what each room is like
    for name in modules():
        print(f"{name:16} {length(name):5} lines, {len(list(faults(name))):3} faults")
