"""The book without its answers: notebooks to hand out.

    python .ci/student.py FOLDER     (beside nbs: chapters read files by relative paths)

Solutions, tempting wrong answers and answers in words go, with the cells that assert them;
hints stay. Where a chapter shows the book's own version of a part that it asks for, the cell
becomes an import from the package: every page runs from top to bottom, its demonstrations show
what the part should do, and its code is not on the page.
"""

import argparse
import ast
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lm336.questions import CORE, NUMBERED, find_exercises  # noqa: E402

NBS = ROOT / "nbs"
FOLDS = r"<details><summary>(Solution|Answer|Tempting, and wrong)</summary>.*?</details>\s*"
YOURS = """from lm336.exercises import grade_all, my_model, progress

progress()
"""


def defined(code: str) -> list[str]:
    "The names that a cell defines, in order; methods that are patched to a class aside."
    found = []
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            patched = any("patch" in ast.unparse(one) for one in node.decorator_list)
            found += [] if patched else [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [one.id for one in targets if isinstance(one, ast.Name)]
    return found


def of_the_book(code: str, module: str, asked: dict[str, str]) -> str:
    "An exported cell, or an import in its place where it answers one of the exercises."
    if not re.match(r"#\| *export", code):
        return code
    names = defined(re.sub(r"(?m)^#\|.*\n", "", code))
    answered = [asked[name] for name in names if name in asked]
    if not answered:
        return code
    imported = ", ".join(names)
    return f"# {answered[0]}; the book's is in lm336/{module}.py\n" + (
        f"from lm336.{module} import {imported}"
    )


def without_answers(path: Path) -> dict:
    "A chapter's notebook for a student."
    nb = json.loads(path.read_text(encoding="utf-8"))
    module = path.stem.split("_", 1)[1]
    here = [one for one in find_exercises(path.parent) if one.path == path]
    asked = {
        book: f"yours is `{one.name}`, exercise {one.label}"
        for one in here
        for book in CORE.get(one.name, ())
    }
    kept, in_answer = [], False
    for cell in nb["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            in_answer = "<summary>Answer</summary>" in text
            text = re.sub(FOLDS, "", text, flags=re.S).rstrip()
        elif in_answer:
            continue  # it asserts the answer
        else:
            text = of_the_book(text, module, asked)
            text = re.sub(r"(?m)^#\| *(export|default_exp).*\n?", "", text)
            cell |= {"outputs": [], "execution_count": None}
        if text:
            kept.append(cell | {"source": text.splitlines(keepends=True)})
    return nb | {"cells": kept}


def the_readers_page(path: Path) -> dict:
    "The page of exercises: its words, and the reader's own progress."
    nb = json.loads(path.read_text(encoding="utf-8"))
    words = [cell for cell in nb["cells"] if cell["cell_type"] == "markdown"]
    yours = {"cell_type": "code", "id": "yours", "metadata": {}, "outputs": [],
             "execution_count": None, "source": YOURS.splitlines(keepends=True)}
    return nb | {"cells": [*words[:2], yours, *words[2:]]}


def write(folder: Path):
    "All notebooks into a folder, the chapters without their answers."
    if folder.exists():
        sys.exit(f"{folder} already exists, perhaps with somebody's work: give another")
    shutil.copytree(NBS, folder, ignore=shutil.ignore_patterns(".*", "_*", "*.yml", "*.scss"))
    for path in sorted(NBS.glob("*.ipynb")):
        if path.match(NUMBERED):
            nb = without_answers(path)
        elif path.name == "exercises.ipynb":
            nb = the_readers_page(path)
        else:
            continue
        text = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
        (folder / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="student", help="default: student")
    write(Path(parser.parse_args().folder))
