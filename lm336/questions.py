"""The book's exercises as its notebooks hold them.

An exercise's question, stub, check, hint and solution are cells of its chapter, and written
nowhere else. This module finds them, and runs what a check needs.
"""

import ast
import builtins
import importlib
import json
import linecache
import os
import re
import symtable
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = [
    "CORE",
    "Exercise",
    "define",
    "find_exercises",
    "find_notebooks",
    "free_names",
    "notebook_cells",
]

# the parts of a model that a reader writes before the book shows its own; for each, the names
# in its notebook whose exported cells hold the same code
CORE: dict[str, tuple[str, ...]] = {
    "entropy": (),
    "learn_merges": ("train_bpe",),
    "apply_merges": (),
    "encode": (),
    "decode": (),
    "windows": ("_gather_windows",),
    "linear": ("Linear",),
    "embedding": ("Embedding",),
    "initial_weight": (),
    "rope": ("RotaryEmbedding",),
    "softmax": ("softmax",),
    "attention": ("scaled_dot_product_attention",),
    "multi_head_attention": ("MultiHeadSelfAttention",),
    "rms_norm": ("RMSNorm",),
    "swiglu": ("SwiGLU",),
    "block": ("TransformerBlock",),
    "transformer": ("Transformer",),
    "cross_entropy": ("token_nats", "cross_entropy"),
    "adamw_step": ("AdamW", "_update"),
    "clip_gradients": ("clip_grad_norm_",),
    "learning_rate": ("cosine_schedule",),
    "train": (),
    "next_probs": ("next_token_probs",),
    "generate": ("generate", "generate_stream"),
    "evaluate": ("evaluate",),
}
HEADING = re.compile(r"### Exercise (\d\d)\.(\d+): (.+)\n\n(★{1,3}) · (\d+) minutes\n")
NUMBERED = "[0-9][0-9]_*.ipynb"
IMPORTS = (ast.Import, ast.ImportFrom)


def notebook_cells(
    path: str | os.PathLike,  # a notebook
) -> list[tuple[str, str]]:  # ("markdown" or "code", text) of each cell
    "A notebook's cells, without what they printed."
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def _fold(title: str, text: str) -> str | None:
    "What is folded under a title; None if there is no such fold."
    pattern = rf"<details><summary>{title}</summary>\n\n(.*?)\n\n</details>"
    match = re.search(pattern, text, re.S)
    return match and match[1]


def _block(folded: str | None) -> str | None:
    "The Python code in a fold; None if it has none."
    match = re.search(r"^```python\n(.*?)^```$", folded or "", re.S | re.M)
    return match and match[1]


@dataclass(frozen=True)
class Exercise:
    "A question with its cells, from its heading to its solution or the next heading."

    path: Path  # the notebook that it is in
    chapter: str  # its number, of two digits
    number: int  # of the exercise in its chapter
    title: str  # its heading
    stars: int  # from 1, one idea, to 3, an algorithm
    minutes: int  # for somebody who has just read the chapter
    cells: tuple[tuple[str, str], ...]  # as `notebook_cells` gives them

    @property
    def label(self) -> str:
        "Chapter and number, such as 06.1."
        return f"{self.chapter}.{self.number}"

    @property
    def prose(self) -> str:
        "All of its Markdown."
        return "\n".join(text for kind, text in self.cells if kind == "markdown")

    @property
    def code(self) -> list[str]:
        "Its code cells."
        return [text for kind, text in self.cells if kind == "code"]

    @property
    def stub(self) -> str | None:
        "The cell that a reader completes; None for a question that asks for words."
        stubs = [text for text in self.code if "NotImplementedError" in text]
        return stubs[0] if stubs else None

    @property
    def name(self) -> str:
        "The function to be written; '' where words are asked for."
        match = re.search(r"^def (\w+)", self.stub or "", re.M)
        return match[1] if match else ""

    @property
    def check(self) -> str:
        "The definition of the function that decides, without the call of `grade` below it."
        call = f"\ngrade(check_{self.name}, {self.name})"
        cells = [text for text in self.code if f"def check_{self.name}(" in text]
        if len(cells) != 1 or not cells[0].endswith(call):
            raise InputError(
                f"{self.path.name}, exercise {self.label}: one cell must define "
                f"check_{self.name} and end in grade(check_{self.name}, {self.name})"
            )
        return cells[0].removesuffix(call) + "\n"

    @property
    def hint(self) -> str | None:
        "What is folded as its hint."
        return _fold("Hint", self.prose)

    @property
    def answer(self) -> str | None:
        "The folded answer in words; None where code is asked for."
        return _fold("Answer", self.prose)

    @property
    def solution(self) -> str:
        "The code of its solution; '' for a question that asks for words."
        return _block(_fold("Solution", self.prose)) or ""

    @property
    def wrong(self) -> str:
        "The code of the tempting wrong answer; '' if there is none."
        return _block(_fold("Tempting, and wrong", self.prose)) or ""


def _exercises_in(path: Path) -> Iterator[Exercise]:
    "A notebook's exercises: from a heading to the solution, or to the next heading."
    facts, cells = None, []
    for kind, text in [*notebook_cells(path), ("markdown", "## ")]:
        match = HEADING.match(text) if kind == "markdown" else None
        is_solved = "<summary>Solution</summary>" in "".join(cells[-1] if cells else "")
        if match or is_solved or (kind == "markdown" and text.startswith("## ")):
            if facts:
                chapter, number, title, stars, minutes = facts
                yield Exercise(
                    path, chapter, int(number), title, len(stars), int(minutes), tuple(cells)
                )
            facts, cells = match and match.groups(), []
        cells.append((kind, text))


def find_notebooks(
    folder: str | os.PathLike | None = None,  # where they are; None: here, ./nbs, the checkout
) -> list[Path]:
    "The chapters' notebooks, in order. `InputError` if there are none."
    package = Path(__file__).parent
    own = [package / "chapters", package.parent / "nbs"]  # of an installation, of a clone
    places = [Path(), Path("nbs"), *own] if folder is None else [Path(folder)]
    for place in places:
        found = sorted(place.glob(NUMBERED))
        if found:
            return found
    where = "here, in ./nbs, or beside the package" if folder is None else f"in {folder}"
    raise InputError(
        f"there are no chapters {where}: the exercises are in the book's notebooks, which "
        "come with its repository; give the folder that holds them"
    )


def find_exercises(
    folder: str | os.PathLike | None = None,  # as for `find_notebooks`
) -> list[Exercise]:
    "The exercises of all chapters, in order."
    return [one for path in find_notebooks(folder) for one in _exercises_in(path)]


def free_names(
    code: str,  # Python
) -> set[str]:
    "The global names that a piece of code takes from elsewhere, built-in ones aside."

    def mentioned(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                yield symbol.get_name()
        for child in table.get_children():
            yield from mentioned(child)

    top = symtable.symtable(code, "code", "exec")
    own = {
        one.get_name()
        for one in top.get_symbols()
        if one.is_assigned() or one.is_imported() or one.is_namespace()
    }
    return set(mentioned(top)) - own - set(dir(builtins))


@cache
def _imports(path: Path) -> dict[str, ast.stmt]:
    "Name -> the statement of a notebook that imports it, and nothing else."
    found: dict[str, ast.stmt] = {}
    for kind, text in notebook_cells(path):
        if kind != "code":
            continue
        try:
            body = ast.parse(text).body
        except SyntaxError:
            continue  # a magic
        for node in body:
            if not isinstance(node, IMPORTS):
                continue
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                if isinstance(node, ast.Import):
                    found[name] = ast.Import([alias])
                else:
                    found[name] = ast.ImportFrom(node.module, [alias], node.level)
    return found


def _surroundings(exercise: Exercise, code: str) -> dict[str, Any]:
    "What a piece of an exercise's code takes from its notebook: imports, exported names."
    names: dict[str, Any] = {"__name__": f"exercise_{exercise.chapter}_{exercise.number}"}
    imported = _imports(exercise.path)
    missing = free_names(code) - {exercise.name}
    for name in sorted(missing & imported.keys()):
        module = ast.fix_missing_locations(ast.Module([imported[name]], []))
        exec(compile(module, str(exercise.path), "exec"), names)
    missing -= names.keys()
    module = "lm336." + exercise.path.stem.split("_", 1)[1]
    if missing:
        exported = importlib.import_module(module)
        names |= {name: getattr(exported, name) for name in missing if hasattr(exported, name)}
    return names


def define(
    exercise: Exercise,  # whose notebook gives it what it needs
    code: str,  # Python that defines a function
    name: str,  # of that function
) -> Callable:
    """The function that a piece of an exercise's code defines.

    Its lines are at hand for tracebacks, and for whoever asks for its source."""
    filename = f"<{name}, exercise {exercise.label}>"
    linecache.cache[filename] = len(code), None, code.splitlines(True), filename
    names = _surroundings(exercise, code)
    exec(compile(code, filename, "exec"), names)
    return names[name]
