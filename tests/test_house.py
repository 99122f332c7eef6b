"""The house: which room may lean on which, how large a room is, and what stands at its door.

As .ci/house.py reads the modules: their syntax, without importing them.
"""

import ast
import functools
import io
import sys
import tokenize
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / ".ci"))
from house import (  # noqa: E402
    FOUNDATION,
    MAIN_LINE,
    ORDER,
    PACKAGE,
    decorators,
    definitions,
    imports,
    length,
    modules,
    source,
    spanned,
    tree,
    written,
)

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


def parametrize(names):
    "A test for each module of these names."
    return pytest.mark.parametrize("module", modules(names))


# ---------------------------------------------------------------- who leans on whom


def test_every_module_has_its_place_in_the_order():
    there = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    missing = ", ".join(sorted(there - set(ORDER)))
    assert not missing, f"put {missing} into a list of .ci/house.py, after what it imports"


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


@parametrize(ORDER)
def test_no_line_of_a_module_is_too_wide(module):
    assert [line for _, line in written(module) if len(line) > WIDTH] == []


@parametrize(MAIN_LINE)
def test_a_module_of_the_main_line_can_be_read_in_one_sitting(module):
    assert length(module) <= LINES


# ---------------------------------------------------------------- what stands at its door


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

