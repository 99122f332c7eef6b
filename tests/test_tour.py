"The tour: the whole line on one page, short, and of this package only the stories."
import ast
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "nbs" / "tour.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"][1:]
IMPORTS = (ast.Import, ast.ImportFrom)
STORIES = {"StoryGrammar", "write_stories"}
NAMED_BY_CHAPTERS = [
    "Text", "Tokens", "Batches", "Embedding", "Positions", "Attention", "Block", "Model",
    "Loss", "Score", "Optimizer", "Schedule", "Loop", "Sampling",
]


def imported():
    "(module, name) of everything that the page imports."
    for node in ast.walk(ast.parse("\n".join(CODE))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def test_has_at_most_150_lines():
    "Blanks, directives and the imports aside."
    kinds = [(text, {isinstance(n, IMPORTS) for n in ast.parse(text).body}) for text in CODE]
    code = [text for text, kind in kinds if kind != {True}]
    lines = [line for text in code for line in text.splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith("#|")]) <= 150
    assert max(len(line) for line in lines if not line.startswith("#|")) <= 95


def test_takes_nothing_from_the_package_but_its_stories():
    of_ours = {name for module, name in imported() if f"{module}.".startswith("lm336.")}
    assert of_ours and of_ours <= STORIES


def test_takes_no_layer_and_no_optimizer_from_pytorch():
    modules = {node.attr for node in ast.walk(ast.parse("\n".join(CODE)))
               if isinstance(node, ast.Attribute)}
    assert not modules & {"nn", "optim", "functional"}
    assert not [module for module, _ in imported() if f"{module}".startswith("torch.")]


def test_exports_nothing():
    assert not [text for text in CODE if text.startswith(("#| export", "#| default_exp"))]


@pytest.mark.parametrize("piece", NAMED_BY_CHAPTERS)
def test_every_piece_has_the_heading_that_chapters_link_to(piece):
    prose = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"]
    assert sum(text.startswith(f"## {piece}\n") for text in prose) == 1
