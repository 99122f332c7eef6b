"""The book's diagrams: drawn by .ci/diagrams.py, legible by themselves, and used."""

import json
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "nbs/pictures"
NAMES = sorted(path.stem for path in FOLDER.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn():
    "What .ci/diagrams.py draws, by name."
    diagrams = runpy.run_path(str(ROOT / ".ci/diagrams.py"))["DIAGRAMS"]
    return {name: str(draw()) for name, draw in diagrams.items()}


def referenced() -> list[tuple[str, str, str]]:
    "(page, alt text, name) of every diagram that a page or CONTRIBUTING.md shows."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^]]*)\]\(nbs/pictures/([^)]+)\)", text)
    found = [("CONTRIBUTING", *each) for each in shown]
    for page in sorted((ROOT / "nbs").glob("*.ipynb")):
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                source = "".join(cell["source"])
                shown = re.findall(r"!\[([^]]*)\]\(pictures/([^)]+)\)", source)
                found += [(page.stem, *each) for each in shown]
    return found


def test_committed_files_are_what_the_script_draws(drawn):
    assert sorted(drawn) == NAMES, "a diagram without a file, or a file without a diagram"
    for name, text in drawn.items():
        there = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        assert text == there, f"{name}.svg is out of step: run python .ci/diagrams.py {name}"


@pytest.mark.parametrize("name", NAMES)
def test_svg_stands_by_itself(name):
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    ids = {e.attrib["id"]: e.text for e in root.iter() if "id" in e.attrib}
    named = (root.get("aria-labelledby") or "").split()
    assert [f"{name}-title", f"{name}-desc"] == named and all(ids[each] for each in named)
    assert all(each.startswith(f"{name}-") for each in ids), "ids that meet on one page"
    named_space = text.replace('"http://www.w3.org/2000/svg"', "")
    outside = re.findall(r"href|url\(|@import|<script|http", named_space)
    assert not outside, f"{name}.svg refers to something outside: {outside}"
    assert "\n\n" not in text, "an empty line ends a block of HTML in Markdown"
    rules = root.findtext(f"{SVG}style") or ""
    selectors = re.findall(r"(?:^|[}{])\s*([^{}@]+?)\s*\{", rules)
    assert selectors and all(".lm336-pic" in each for each in selectors), selectors


@pytest.mark.parametrize("name", NAMES)
def test_text_is_large_enough(name):
    root = ElementTree.parse(FOLDER / f"{name}.svg").getroot()
    width = float((root.get("viewBox") or "").split()[2])
    sizes = re.findall(r"font-size:([\d.]+)px", root.findtext(f"{SVG}style") or "")
    least = min(float(size) for size in sizes)
    assert least * 700 / width >= 11 and least * 360 / width >= 9.5


def test_every_reference_has_a_file_and_says_what_is_seen():
    for page, alt, file in referenced():
        assert (FOLDER / file).is_file(), f"{page} shows {file}, which does not exist"
        assert len(alt.split()) >= 6, f"{page}: the alt text of {file} says little: {alt!r}"


def test_every_diagram_is_shown():
    shown = {file.removesuffix(".svg") for _, _, file in referenced()}
    assert not set(NAMES) - shown, f"no page shows {sorted(set(NAMES) - shown)}"
