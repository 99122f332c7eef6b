"The pages as they go to Quarto, and once rendered: no link ends nowhere or elsewhere."
import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
DOCS = ROOT / "_docs"
FETCHING = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("video", "src"),
    ("link", "href"),
}
FROM_ELSEWHERE = re.compile(r"(https?:)?//")
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "_proc", "_docs", "runs", "build", "dist", "*.egg-info", "__pycache__"
)


@pytest.fixture(scope="session")
def proc(tmp_path_factory):
    """The notebooks as they go to Quarto, made in a copy of the checkout.

    LM336_PROC=fresh says that `_proc` has just been made."""
    beside = Path(sys.executable).parent / "nbdev_test"
    if not shutil.which("nbdev_test") and not beside.exists():
        pytest.skip("nbdev is not installed")
    if os.environ.get("LM336_PROC") == "fresh":
        return ROOT / "_proc"
    copy = tmp_path_factory.mktemp("site") / "checkout"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=NOT_COPIED)
    command = [sys.executable, ".ci/site.py", "proc"]
    made = subprocess.run(command, cwd=copy, timeout=540, capture_output=True, text=True)
    assert made.returncode == 0, f"{' '.join(command)} failed:\n{made.stdout}\n{made.stderr}"
    return copy / "_proc"


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def documents(path):
    "Every Markdown text of a processed notebook: its prose and its Markdown outputs."
    for cell in cells(path):
        if cell["cell_type"] == "markdown":
            yield "".join(cell["source"])
        for out in cell.get("outputs", []):
            yield "".join(out.get("data", {}).get("text/markdown", ""))


def prose(text):
    "Markdown without its code, in which anything may look like a link."
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^```.*?^```", "", text))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def prose_of(proc):
    "(notebook, Markdown without its code) for every Markdown text of the site."
    for path in sorted(proc.glob("*.ipynb")):
        for text in documents(path):
            yield path, prose(text)


def resolves(target, proc):
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or target.startswith(("#", "data:")):
        return True
    path = unquote(parts.path)
    if path.startswith("notebooks/"):
        return (NBS / path.removeprefix("notebooks/")).exists()
    if path.endswith(".html"):
        return path in pages(proc)
    return not path.startswith("/") and (proc / path).exists()


def page_name(path):
    "The name that a notebook's page will have."
    head = "".join(cells(path)[0]["source"])
    matter = yaml.safe_load(head.strip().strip("-")) if head.startswith("---") else {}
    return matter.get("output-file", path.stem + ".html")


def pages(proc):
    return {"404.html", *map(page_name, proc.glob("*.ipynb"))}


def test_every_link_and_asset_resolves(proc):
    bad = []
    for path, text in prose_of(proc):
        targets = re.findall(r"\]\(([^)\s]+)", text)
        for _, attrs in Tags(text).found:
            targets += [attrs[key] for key in ("src", "href", "data-src") if attrs.get(key)]
        targets = [target for target in targets if not target.startswith("attachment:")]
        bad += [f"{path.name}: {one}" for one in targets if not resolves(one, proc)]
    assert not bad, bad


def headings(text):
    "The headings of a Markdown text, without their #."
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1`*\s*?$", "", text)
    return re.findall(r"(?m)^#{1,6}\s+(.+?)\s*#*$", text)


def slug(heading):
    """The id that Pandoc gives a heading: its letters, digits, _ - and ., in lower case,
    spaces as hyphens, from the first letter on."""
    if given := re.search(r"\{[^}]*#([\w.-]+)[^}]*\}$", heading):
        return given.group(1)
    text = re.sub(r"\{[^}]*\}$", "", heading).strip()
    text = re.sub(r"(`[^`]*`)|<[^>]+>", r"\1", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text))
    text = "".join(c for c in text.lower() if c.isalnum() or c in "_-." or c.isspace())
    return re.sub(r"^[^a-zà-ÿ]*", "", re.sub(r"\s+", "-", text)) or "section"


def ids(path):
    "Where a link into a notebook's page can end: its headings, in order, and its HTML's ids."
    found, seen = set(), Counter()
    for text in documents(path):
        for name in map(slug, headings(text)):
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        found.update(attrs["id"] for _, attrs in Tags(prose(text)).found if attrs.get("id"))
        found.update(re.findall(r"\{#([\w.-]+)", prose(text)))
    return found


def fragments(path):
    "(page, place) for every link with a # in a processed notebook."
    for text in map(prose, documents(path)):
        targets = re.findall(r"\]\(([^)\s]+)", text)
        targets += [attrs["href"] for _, attrs in Tags(text).found if attrs.get("href")]
        for target in targets:
            parts = urlsplit(target)
            if parts.fragment and not parts.scheme and not parts.netloc:
                yield parts.path, unquote(parts.fragment)


def test_every_fragment_names_a_place(proc):
    "A link to `page.ipynb#place` or `#place` ends at a heading of that page, not at its top."
    notebooks = sorted(proc.glob("*.ipynb"))
    at = {name: ids(path) for path in notebooks for name in (path.name, page_name(path))}
    asked = [(path, *fragment) for path in notebooks for fragment in fragments(path)]
    bad = [f"{path.name}: {page}#{place}" for path, page, place in asked
           if place not in at.get(page or path.name, ())]
    assert not bad, bad


@pytest.mark.skipif(not shutil.which("pandoc"), reason="Pandoc is not installed")
def test_slugs_are_pandocs(proc):
    texts = [text for path in proc.glob("*.ipynb") for text in documents(path)]
    names = sorted({heading for text in texts for heading in headings(text)
                    if "{#" not in heading})
    given = "\n\n".join(f"## {name}" for name in names)
    command = ["pandoc", "-f", "markdown", "-t", "html", "--wrap=none"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    html = done.stdout
    theirs = re.findall(r'<h2[^>]* id="([^"]*)"|<h2[^>]*class="[^"]*" id="([^"]*)"', html)
    ours, seen = [], Counter()
    for name in map(slug, names):
        ours.append(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    assert ours == [a or b for a, b in theirs]


def test_links_to_our_own_pages_are_relative(proc):
    from nbdev.config import get_config
    home = get_config(path=ROOT).doc_host
    assert not [path.name for path, text in prose_of(proc) if home in text]


FETCHES = r"""(?:url\(|@import|from|import\(?|fetch\()\s*["']?(?:https?:)?//\S+"""


def test_nothing_is_fetched_from_elsewhere(proc):
    bad = []
    for path, text in prose_of(proc):
        found = re.findall(r"!\[[^\]]*\]\((https?:[^)]+)", text)
        for tag, attrs in Tags(text).found:
            asked = [url for key, url in attrs.items() if (tag, key) in FETCHING and url]
            found += [url for url in asked if FROM_ELSEWHERE.match(url)]
        bad += [f"{path.name}: {url}" for url in found]
    for path in [*proc.glob("*.css"), *proc.glob("*.scss"), *proc.glob("web/*")]:
        if path.suffix in {".css", ".scss", ".js", ".html"}:
            bad += [f"{path.name}: {hit}" for hit in re.findall(FETCHES, path.read_text())]
    assert not bad, bad


def test_every_image_speaks(proc):
    bad = []
    for path, text in prose_of(proc):
        bad += [f"{path.name}: {hit}" for hit in re.findall(r"!\[\s*\]\([^)]+", text)]
        images = [attrs for tag, attrs in Tags(text).found if tag == "img"]
        bad += [f"{path.name}: {one.get('src')}" for one in images if not one.get("alt")]
        drawn = [attrs for tag, attrs in Tags(text).found if tag == "svg"]
        bad += [f"{path.name}: a diagram" for one in drawn if not one.get("aria-label")]
    assert not bad, bad


def test_no_output_brings_scripts(proc):
    "Quarto answers an HTML or JavaScript output with require.js and jQuery from elsewhere."
    scripts = {"text/html", "application/javascript"}
    outputs = [(path, out) for path in proc.glob("*.ipynb")
               for cell in cells(path, "code") for out in cell["outputs"]]
    bad = [f"{path.name}: {kind}" for path, out in outputs for kind in out.get("data", {})
           if kind in scripts or "widget" in kind]
    assert not bad, bad


def test_directives_are_quartos(proc):
    "nbdev's own directives are gone: beside `#| key: value`, a bare one is an error in YAML."
    for path in proc.glob("*.ipynb"):
        for cell in cells(path, "code"):
            source = "".join(cell["source"]).splitlines()
            for line in takewhile(lambda line: line.startswith("#|"), source):
                assert isinstance(yaml.safe_load(line[2:]), dict), f"{path.name}: {line}"


class Strict(yaml.SafeLoader):
    "Refuses a key that stands twice."
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
        return super().construct_mapping(node, deep)


def test_yaml_is_strict_and_the_sidebar_has_every_page(proc):
    for path in proc.glob("*.yml"):
        assert isinstance(yaml.load(path.read_text(), Strict), dict), path.name
    for path in proc.glob("*.ipynb"):
        yaml.load("".join(cells(path)[0]["source"]).strip().strip("-"), Strict)
    listed = set(re.findall(r"[\w-]+\.ipynb", (NBS / "sidebar.yml").read_text()))
    assert listed == {path.name for path in NBS.glob("*.ipynb")}


def modules():
    "(name, source) of every module that a notebook exports."
    for path in sorted((ROOT / "lm336").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "# AUTOGENERATED! DO NOT EDIT!" in text and not path.stem.startswith("_"):
            yield path.stem, text


def exported():
    "(module, name, function or class) for every one that a notebook exports."
    for stem, _ in modules():
        module = importlib.import_module("lm336." + stem)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing)):
                yield stem, name, thing


def given(thing):
    "What a function is given, or a class when an object is made: fields, or `__init__`'s own."
    if not inspect.isclass(thing):
        return list(inspect.signature(thing).parameters)
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing) if field.init]
    if "__init__" in vars(thing):
        return list(inspect.signature(thing.__init__).parameters)[1:]
    return getattr(thing, "_fields", ())


def test_exported_names_are_found():
    found = {f"{module}.{name}" for module, name, _ in exported()}
    assert found >= {"attention.softmax", "transformer.Transformer", "training.Trainer"}
    assert "grammar.Mention" in found


DEFINITIONS = ast.FunctionDef, ast.ClassDef


def absolute(text):
    "Code with the imports that nbdev makes relative as the notebook has them."
    return re.sub(r"(?m)^( *from )\.(?=\w)", r"\1lm336.", text)


def definitions():
    """(module, name, its complete lines) of every function, class and constant that a
    notebook exports, private ones and methods that are patched to a class among them."""
    for stem, text in modules():
        lines = absolute(text).splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, (*DEFINITIONS, ast.Assign, ast.AnnAssign)):
                name = getattr(node, "name", None) or lines[node.lineno - 1].split(" ")[0]
                decorators = [one.lineno for one in getattr(node, "decorator_list", [])]
                if name != "__all__":
                    start = min([node.lineno, *decorators])
                    yield stem, name, "\n".join(lines[start - 1 : node.end_lineno])


def page_of(stem):
    "The page that a module is exported from, as the folder of pages and of notebooks has it."
    (path,) = [
        path
        for path in NBS.glob("*.ipynb")
        if re.search(rf'"#\| default_exp {stem}\b', path.read_text(encoding="utf-8"))
    ]
    return path.name, re.sub(r"^\d+_", "", path.stem) + ".html"


def times(lines, code):
    "How often lines stand in code, whole."
    return f"\n{code}\n".count(f"\n{lines}\n")


def not_once(code_of):
    "The definitions that a page does not show exactly once; `code_of` gives a page's code."
    pages = {stem: absolute(code_of(stem)) for stem, _ in modules()}
    shown = [(stem, name, times(lines, pages[stem])) for stem, name, lines in definitions()]
    assert len(shown) > 400
    return [f"{stem}.{name}: {count} times" for stem, name, count in shown if count != 1]


def code_cells(proc, stem):
    return ["".join(one["source"]) for one in cells(proc / page_of(stem)[0], "code")]


def test_every_exported_definition_is_on_its_page_whole_and_once(proc):
    assert not_once(lambda stem: "\n".join(code_cells(proc, stem))) == []


def test_a_body_that_a_page_lacks_is_found(proc):
    "Without one cell of each page, what the cell defines is missed, and nothing else."
    def without_softmax(stem):
        kept = [one for one in code_cells(proc, stem) if "def softmax(" not in one]
        return "\n".join(kept)

    assert not_once(without_softmax) == ["attention.softmax: 0 times"]

    def twice(stem):
        return "\n".join(code_cells(proc, stem) * (1 + (stem == "rope")))

    found = not_once(twice)
    assert found and all(re.fullmatch(r"rope\.\w+: 2 times", one) for one in found)


def heads(proc, stem):
    "(Markdown before it, code) of every exported cell of a page."
    found = cells(proc / page_of(stem)[0])
    for before, cell in zip(found, found[1:], strict=False):
        code = "".join(cell["source"])
        if code.startswith("#| classes: lm336-exported\n"):
            yield "".join(before["source"]), code.split("\n", 1)[1]


@pytest.mark.parametrize("stem, text", list(modules()), ids=[one for one, _ in modules()])
def test_an_exported_cell_links_to_its_source_and_a_public_name_is_a_heading(
    proc, stem, text
):
    lines, titled = text.splitlines(), []
    for head, code in heads(proc, stem):
        link = re.search(rf"\[lm336/{stem}\.py\]\(https://\S+/{stem}\.py#L(\d+)\)", head)
        assert link, f"no link to the source: {code[:80]}"
        at = int(link[1]) - 1
        there = absolute("\n".join(lines[at : at + code.count("\n") + 1]))
        assert there == absolute(code), f"line {at + 1} of lm336/{stem}.py is another"
        titled += re.findall(r"(?m)^### `([\w.]+)` \{#", head)
    module = importlib.import_module("lm336." + stem)
    things = {name for where, name, _ in exported() if where == stem}
    assert set(titled) >= things, f"no heading: {things - set(titled)}"
    assert len(titled) == len(set(titled)) and module.__all__


def test_a_place_has_one_name(proc):
    "Among the ids that we write ourselves."
    for path in proc.glob("*.ipynb"):
        text = "\n".join(map(prose, documents(path)))
        count = Counter(re.findall(r"\{#([\w.-]+)", text))
        assert not [one for one, often in count.items() if often > 1], path.name


def signature(node, lines):
    "A function's lines before its body; those of a class's fields and of its `__init__`."
    if isinstance(node, ast.FunctionDef):
        return lines[node.lineno - 1 : node.body[0].lineno - 1]
    shown = []
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            shown += lines[part.lineno - 1 : part.end_lineno]
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            shown += signature(part, lines)
    return shown


def test_every_parameter_is_documented(proc):
    "In the page: each exported name's signature, a line with a comment for each parameter."
    signatures = {}
    for stem, _ in modules():
        for _, code in heads(proc, stem):
            for node in ast.parse(code).body:
                if isinstance(node, DEFINITIONS):
                    shown = "\n".join(signature(node, code.splitlines()))
                    signatures[stem, node.name] = shown
    missing = []
    for module, name, thing in exported():
        if (module, name) not in signatures:
            missing.append(f"{module}.{name}")
            continue
        for parameter in given(thing):
            documented = rf"(?m)^[^#]*\b{parameter}\b[^#\n]*#\s*\S"
            if not re.search(documented, signatures[module, name]):
                missing.append(f"{module}.{name}({parameter})")
    assert not missing, f"not in the page, or without a comment there: {', '.join(missing)}"


def site():
    "The functions of .ci/site.py."
    return runpy.run_path(str(ROOT / ".ci/site.py"))


def test_a_cell_is_cut_before_each_public_definition_but_the_first():
    first = "A = 1\n\n\ndef a(): ...\n\n\ndef _b(): ..."
    second = "# of c\n@d\ndef c(): ...\n\n\nE = 2"
    found = site()["pieces"](f"{first}\n\n\n{second}")
    assert [(start, code) for start, code, _ in found] == [(1, first), (10, second)]


def test_a_line_that_names_a_source_unfolds_it():
    line = "[lm336/files.py: atomic_path](../lm336/files.py)"
    shown = site()["LISTING"].sub(site()["listing"], f"Above.\n\n{line}\n\nBelow.")
    source = (ROOT / "lm336/files.py").read_text(encoding="utf-8")
    body = shown.partition("```python\n")[2].partition("\n```")[0]
    assert "def atomic_path(" in body and body in source and "<details" in shown
    assert site()["LISTING"].search(f"In {line} it is said") is None


def test_every_line_that_names_a_source_is_unfolded_on_its_page(proc):
    line = site()["LISTING"]
    asked = [path.name for path in NBS.glob("*.ipynb") for text in documents(path)
             if line.search(text)]
    shown = [path.name for path in proc.glob("*.ipynb") for text in documents(path)
             if '<details class="lm336-listing">' in text]
    assert sorted(shown) == sorted(asked) and len(asked) >= 4


class Cell(dict):
    "As much of nbdev's cell as the site's script needs."

    def __init__(self, source, kind="code", outputs=()):
        super().__init__(outputs=list(outputs))
        self.source, self.cell_type, self.outputs = source, kind, list(outputs)

    def set_source(self, source):
        self.source = source


FOLDED = "#| code-fold: true\n"


@pytest.mark.parametrize(
    "everywhere, sources, shown",
    [
        (False, ["a", "b"], ["a", "b"]),
        (False, [f"{FOLDED}a", f"{FOLDED}#| x: 1\nb", "c"], [f"{FOLDED}#| x: 1\na\n\nb", "c"]),
        (False, [f"{FOLDED}a", "b", f"{FOLDED}c"], [f"{FOLDED}a", "b", f"{FOLDED}c"]),
        (True, [f"{FOLDED}a", "b", "c"], [f"{FOLDED}a", "b\n\nc"]),
    ],
)
def test_what_is_folded_in_a_row_is_folded_once(everywhere, sources, shown):
    found = site()["folded_once"]([Cell(one) for one in sources], everywhere)
    assert [cell.source for cell in found] == shown


def test_a_picture_or_a_paragraph_between_two_folded_cells_stays_where_it_is():
    folded_once = site()["folded_once"]
    drawn = Cell(f"{FOLDED}a", outputs=["a picture"])
    said = Cell("A paragraph.", "markdown")
    for cells in ([drawn, Cell(f"{FOLDED}b")], [Cell("a"), said, Cell("b")]):
        assert folded_once(cells, True) == cells


def test_no_page_has_two_folded_cells_in_a_row_that_show_nothing(proc):
    "So a chapter begins with one line, Imports, and Records with two."
    for path in proc.glob("*.ipynb"):
        found = cells(path)
        folds = [FOLDED in "".join(cell["source"]) for cell in found]
        empty = [not cell.get("outputs") for cell in found]
        assert not any(map(all, zip(folds, folds[1:], empty, strict=False))), path.name


def test_printed_source_is_shown_as_code():
    source = "@a\ndef b():\n    return 1\n\nclass C:\n    d = 1\n"
    out = {"output_type": "stream", "name": "stdout", "text": source.splitlines(True)}
    shown = site()["highlighted"](out)["data"]["text/markdown"]
    assert "".join(shown) == f"```python\n{source.strip()}\n```"
    for text in ("definitely\n", "class A is better\n", "def f(): ...\n1\n"):
        out = {"output_type": "stream", "name": "stdout", "text": [text]}
        assert site()["highlighted"](out) is out


def test_a_printed_table_scrolls_and_printed_prose_does_not():
    "See .lm336-columns in nbs/theme.scss."
    table = {"output_type": "stream", "text": ["loss  1.2\n", "rate   3\n"]}
    prose = {"output_type": "stream", "text": ["loss  1.2\n", "    and rate 3\n"]}
    assert site()["in_columns"](table) and not site()["in_columns"](prose)
    code = site()["with_class"]("b", site()["with_class"]("a", "print(1)"))
    assert code == "#| classes: b a\nprint(1)"


def test_a_function_in_a_formula_stands_apart_from_what_follows():
    text = r"$\ln V$, $i \cos\alpha$, $2 \cdot \ln(2)$, $\sinh x$, $e^{\ln 2}$"
    shown = r"$\ln\,V$, $i \,\cos\,\alpha$, $2 \cdot \ln(2)$, $\sinh x$, $e^{\ln\,2}$"
    assert site()["spaced"](text) == shown


def test_what_is_timed_is_shown(proc):
    "A page has every line of %timeit that its notebook has."
    def timed(folder):
        codes = [cell["source"] for path in folder.glob("2*.ipynb") for cell in cells(path)]
        return Counter(re.findall(r"(?m)^ *%timeit .+", "\n".join(map("".join, codes))))

    assert timed(proc) == timed(NBS) and timed(NBS)


def test_code_of_modules_without_a_chapter_links_to_its_source():
    sources = site()["by_hand"]()
    text = "`save_checkpoint` in `lm336/checkpoints.py`, [`Trainer`](a.html), `x + 1`"
    linked = site()["with_sources"](text, sources)
    assert re.match(r"\[`save_checkpoint`\]\(\S+/checkpoints\.py#L\d+\) in \[`lm33", linked)
    assert linked.endswith("[`Trainer`](a.html), `x + 1`")
    assert "softmax" not in sources


def test_a_diagram_is_part_of_its_page():
    "Its colours follow the page's; what is said of it is what the notebook says."
    name = sorted(path.name for path in (NBS / "pictures").glob("*.svg"))[0]
    drawn = site()["drawn"]
    shown = re.sub(r"!\[(.*?)\]\((.*?)\)", drawn, f'![Two "words"](pictures/{name})')
    (svg,) = [attrs for tag, attrs in Tags(shown).found if tag == "svg"]
    assert (svg["role"], svg["aria-label"]) == ("img", 'Two "words"')
    assert "<title" not in shown and " id=" not in shown and "\n\n" not in shown


@pytest.mark.parametrize("path", sorted(NBS.glob("*.ipynb")), ids=lambda at: at.name)
def test_a_notebook_to_be_downloaded_links_to_nothing_beside_it(path):
    text = site()["to_be_downloaded"](path.read_text(encoding="utf-8"))
    found = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    words = "\n".join(prose("".join(cell["source"])) for cell in found)
    targets = re.findall(r"\]\(([^)\s]+)", words)
    targets += [attrs["src"] for tag, attrs in Tags(words).found if tag == "img"]
    assert targets and not [one for one in targets if not one.startswith(("#", "https://"))]


@pytest.mark.parametrize(
    "code, plot",
    [("plt.plot(a)", True), ("plt.imshow(a)", False), ("t(0, 0, backgroundcolor=c)", False)],
)
def test_only_a_plot_whose_shades_mean_nothing_may_turn_light(code, plot):
    "In the dark, its colours are inverted: see nbs/theme.scss."
    outputs = [{"output_type": "display_data", "data": {"image/png": ""}}]
    cell = type("Cell", (dict,), {"source": code})
    assert site()["is_plot"](cell(outputs=outputs)) is plot
    assert not site()["is_plot"](cell(outputs=[]))


def test_every_term_can_be_searched_and_leads_to_a_place(proc):
    at = {page_name(path): ids(path) for path in proc.glob("*.ipynb")}
    found = site()["searched"]()
    assert len({one["objectID"] for one in found}) == len(found) > 80
    for one in found:
        page, _, place = one["href"].partition("#")
        assert place in at[page], one["href"]
    titles = [name for one in found for name in one["title"].split(", ")]
    assert {"softmax", "attention mask", "byte pair", "KV cache"} <= set(titles)


def test_a_page_that_is_finished_begins_with_a_link_to_its_text():
    page = site()["finished"]('<html><body class="nav"><header><a href="x">y</a></header>')
    first, *_ = [attrs for tag, attrs in Tags(page).found if tag == "a"]
    assert first["href"] == "#quarto-document-content"


def test_every_page_has_our_picture(proc):
    for path in proc.glob("*.ipynb"):
        head = "".join(cells(path)[0]["source"]).strip().strip("-")
        assert yaml.safe_load(head)["image"] == "og.png", path.name
    assert (proc / "og.png").stat().st_size < 100_000


def asked_by(path, seen):
    "A module of the page and all that it imports or loads by its name, sizes by path."
    if path not in seen:
        text = path.read_text(encoding="utf-8")
        seen[path] = len(text.encode())
        names = re.findall(r"""from "\./([\w-]+\.js)\"""", text)
        names += re.findall(r"""(?:here|import)\("\.?/?([\w-]+\.(?:js|css))"\)""", text)
        for name in names:
            asked_by(path.parent / name, seen)
    return seen


def test_home_is_light_before_a_press(proc):
    """What is ours of the first page: its text, pictures, recording and panels; no model.

    With what Quarto adds to every page, less than a megabyte: tests/test_rendered.py."""
    text = "\n".join(documents(proc / "index.ipynb"))
    web = proc / "web"
    panels = re.findall(r'data-widget="([\w-]+)"', text)
    assert "sampler" in panels
    seen = {}
    for name in ("embed", *panels):
        asked_by(web / f"{name}.js", seen)
    for name in {*re.findall(r'(?:src|data-recording)="([^"]+)"', text),
                 *re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)} - {"model", "web/embed.js"}:
        seen[proc / name] = (proc / name).stat().st_size
    names = {path.name for path in seen}
    assert names >= {"story.json", "loss.png", "sampler.png", "widgets.css", "tokens.js"}
    assert not names & {"model.safetensors", "tokenizer.json", "sampler.gif"}
    assert sum(seen.values()) + len(text.encode()) < 500_000


def test_quarto_warns_of_no_link():
    "Of one to a notebook that is no page, unless it is told not to look for a page."
    box = site()["box"]({"by_hand": "**You need** a", "counted": "1 minute"}, "06_a.ipynb")
    assert '(notebooks/06_a.ipynb){data-noresolveinput="true"}' in box


def test_a_page_begins_with_the_facts_in_a_box(proc):
    for path in [*sorted(proc.glob("[0-9]*.ipynb")), proc / "tour.ipynb"]:
        found = [one for one in documents(path) if one.startswith("::: {.lm336-facts}")]
        assert len(found) == 1, path.name
        assert f"notebooks/{path.name}" in found[0] and "colab." in found[0]
        code = ["".join(cell["source"]) for cell in cells(path, "code")]
        assert not [text for text in code if "%pip" in text]


class Code(HTMLParser):
    "The text of a page's blocks of code."

    def __init__(self, text):
        super().__init__()
        self.depth, self.text = 0, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.depth += tag == "pre"

    def handle_endtag(self, tag):
        self.depth -= tag == "pre"
        self.text += "\n" * (tag == "pre")

    def handle_data(self, data):
        self.text += data if self.depth else ""


def faults(path):
    "What a rendered page fetches from elsewhere or links to in vain; pictures without words."
    for tag, attrs in Tags(path.read_text(encoding="utf-8")).found:
        if tag == "img" and "alt" not in attrs:
            yield f"{attrs.get('src')} has no alt"
        for key in ("src", "href"):
            url = attrs.get(key) or ""
            fetched = (tag, key) in FETCHING and attrs.get("rel") != "canonical"
            if fetched and FROM_ELSEWHERE.match(url):
                yield url
            parts = urlsplit(url)
            ours = parts.path and not parts.scheme and not parts.netloc
            if ours and path.name != "404.html" and not (DOCS / unquote(parts.path)).exists():
                yield url


IS_RENDERED = (DOCS / "index.html").exists()


@pytest.mark.skipif(not IS_RENDERED, reason="the site is not rendered: make docs")
def test_rendered_pages():
    bad = [f"{path.name}: {fault}" for path in DOCS.glob("*.html") for fault in faults(path)]
    assert not bad, bad


@pytest.mark.skipif(not IS_RENDERED, reason="the site is not rendered: make docs")
def test_every_exported_definition_is_on_its_rendered_page_whole_and_once():
    def code_of(stem):
        return Code((DOCS / page_of(stem)[1]).read_text(encoding="utf-8")).text

    assert not_once(code_of) == []
