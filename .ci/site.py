"""The site from its one source: the notebooks, the page's modules, the demo run.

They are in nbs/, lm336/web and data/demo.

    python .ci/site.py proc      notebooks and assets into _proc: all that needs no Quarto
    python .ci/site.py render    the same, then Quarto's pages into _docs
"""

import ast
import html
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbdev.serve
from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev import processors
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.processors import FilterDefaults
from nbdev.showdoc import showdoc_nm

chapters = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("chapters.py"))))
terms = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("terms.py"))))
CFG = get_config(path=Path(__file__).parents[1])
ROOT, NBS = CFG.config_path, CFG.nbs_path
PROC, DOCS = ROOT/"_proc", ROOT/"_docs"
HOME = CFG.doc_host.rstrip("/") + CFG.doc_baseurl.rstrip("/") + "/"
GITHUB = f"{CFG.git_url}/blob/{CFG.branch}/"
DEFINITIONS = ast.FunctionDef, ast.ClassDef
FOLDED = '#| code-fold: true\n#| code-summary: "Imports"\n'


# ---------------------------------------------------------------- exported code


def lines_of_cells(module: str) -> dict[str, int]:
    "For every exported cell, by its id, the line of a module on which its code begins."
    text = (ROOT/"lm336"/f"{module}.py").read_text(encoding="utf-8")
    marks = [re.match(r"# %% \S+\.ipynb #(\w+)$", line) for line in text.splitlines()]
    return {mark[1]: number + 1 for number, mark in enumerate(marks, 1) if mark}


def is_public(node: ast.stmt) -> bool:
    return isinstance(node, DEFINITIONS) and not node.name.startswith("_")


def first_line(node: ast.stmt, lines: list[str]) -> int:
    "The line on which a definition begins, with its decorators and the comments above."
    decorators = getattr(node, "decorator_list", [])
    number = min([node.lineno, *(one.lineno for one in decorators)])
    while number > 1 and lines[number - 2].startswith("#"):
        number -= 1
    return number


def pieces(code: str) -> list[tuple[int, str, list[ast.stmt]]]:
    """(first line, code, statements) of a cell, cut before every public definition but the
    first: each has a heading of its own."""
    lines, body = code.splitlines(), ast.parse(code).body
    public = [node for node in body if is_public(node)]
    starts = [1, *(first_line(node, lines) for node in public[1:])]
    found = []
    for start, stop in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        inside = [node for node in body if start <= node.lineno < stop]
        found.append((start, "\n".join(lines[start - 1:stop - 1]).strip("\n"), inside))
    return found


def names(body: list[ast.stmt]) -> list[str]:
    "What statements define: functions, classes with their methods, constants."
    found = []
    for node in body:
        if isinstance(node, DEFINITIONS):
            name = showdoc_nm(node)
            found += name if isinstance(name, list) else [name]
        if isinstance(node, ast.ClassDef):
            methods = [one.name for one in node.body if isinstance(one, DEFINITIONS)]
            found += [f"{node.name}.{method}" for method in methods]
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = [one for target in targets for one in ast.walk(target)]
            found += [one.id for one in stored if isinstance(one, ast.Name)
                      and isinstance(one.ctx, ast.Store)]
    return [name.lower() for name in found]


def shown_in_full(cell, module: str, line: int, seen: set[str]) -> list:
    """The cells that a page has for an exported one: a heading for every public definition,
    a link to its source, its code."""
    if chapters.only_imports(cell.source):
        return [mk_cell(FOLDED + cell.source, metadata=cell.metadata)]
    found = []
    for start, code, body in pieces(cell.source):
        taken = set(seen)
        anchors = [name for name in dict.fromkeys(names(body)) if name not in taken]
        seen.update(anchors)
        link = f"[lm336/{module}.py]({GITHUB}lm336/{module}.py#L{line + start - 1})"
        public = [showdoc_nm(node) for node in body if is_public(node)]
        head = ""
        if public:
            name = public[0][0] if isinstance(public[0], list) else public[0]
            anchor = name.lower()
            anchors = [one for one in anchors if one != anchor]
            if anchor in taken:  # `Progress` and `progress`: links lead to the first
                anchor += "-2"
            head = f"### `{name}` {{#{anchor} .lm336-name}}\n\n"
        spans = "".join(f"[]{{#{anchor}}}" for anchor in anchors)
        found.append(mk_cell(f"{head}{spans}{link}{{.lm336-source}}", "markdown"))
        found.append(
            mk_cell(f"#| classes: lm336-exported\n{code}", metadata=cell.metadata)
        )
    found[-1].outputs = cell.outputs
    return found


def with_class(name: str, code: str) -> str:
    "A cell's code with one more class of its own."
    said = "#| classes: "
    if said in code:
        return code.replace(said, f"{said}{name} ", 1)
    return f"{said}{name}\n{code}"


def is_plot(cell) -> bool:
    """Whether a cell draws lines and bars on white, so that its picture may lose the white and
    turn light in the dark. Where shades have a meaning, nothing may change them."""
    shades = "imshow", "backgroundcolor", "facecolor", "bbox"
    drawn = [out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    return bool(drawn) and not any(word in cell.source for word in shades)


class exported(processors.Processor):  # nbdev knows a processor by its name
    "What a notebook exports stands on its page where it is built, whole, and once."

    def begin(self):
        cells, module, seen = [], None, set()
        for cell in self.nb.cells:
            said = cell.get("directives_") or {}
            if "default_exp" in said:
                module = said["default_exp"][0]
                at = lines_of_cells(module)
                continue
            if cell.cell_type == "code" and {"export", "exporti"} & said.keys():
                if cell.id not in at:
                    sys.exit(f"{self.nb.path_}: {cell.id} is not in the module: nbdev_export")
                cells += shown_in_full(cell, module, at[cell.id], seen)
            elif is_plot(cell):
                cell.set_source(with_class("lm336-plot", cell.source))
                cells.append(cell)
            elif cell.cell_type == "code" and chapters.only_imports(cell.source):
                if not chapters.directives(cell.source):
                    cell.set_source(FOLDED + cell.source)
                cells.append(cell)
            else:
                cells.append(cell)
        self.nb.cells = cells


class Pages(FilterDefaults):
    """What nbdev does to a notebook before Quarto has it, without its way of showing what is
    exported, which needs every import and export to be run and shows no body."""

    def base_procs(self):
        kept = (
            "populate_language", "insert_warning", "strip_ansi", "hide_line", "filter_stream_",
            "rm_header_dash", "ai_magics", "hide_", "add_links", "strip_hidden_metadata",
        )
        return [FrontmatterProc, *(getattr(processors, name) for name in kept), exported]


# ---------------------------------------------------------------- prose


def by_hand() -> dict[str, str]:
    "Where the source of a module without a chapter is, and of all that it defines."
    found = {}
    for path in sorted((ROOT/"lm336").glob("[a-z]*.py")):
        text, name = path.read_text(encoding="utf-8"), f"lm336/{path.name}"
        if "# AUTOGENERATED! DO NOT EDIT!" in text:
            continue
        found[name] = found[f"lm336.{path.stem}"] = GITHUB + name
        for node in ast.parse(text).body:
            if is_public(node):
                found[node.name] = f"{GITHUB}{name}#L{node.lineno}"
    return found


def with_sources(text: str, sources: dict[str, str]) -> str:
    "Code in prose that names a module without a chapter, or what it defines, links to it."
    def link(found: re.Match) -> str:
        url = sources.get((found["code"] or "").removesuffix("()"))
        return f"[`{found['code']}`]({url})" if url else found[0]

    skipped = r"(?ms)^(?:```|~~~).*?^(?:```|~~~)|\[[^\]]*\]\([^)]*\)|^#+ .*?$"
    return re.sub(rf"{skipped}|`(?P<code>[\w./]+(?:\(\))?)`", link, text)


LISTING = re.compile(r"(?m)^\[`?lm336/(\w+)\.py: ([\w., ]+?)`?\]\(\.\./lm336/\1\.py\)$")


def listing(found: re.Match) -> str:
    "For a line that is such a link alone: the source of what it names, to be unfolded."
    path = ROOT/"lm336"/f"{found[1]}.py"
    code = path.read_text(encoding="utf-8")
    nodes = {node.name: node for node in ast.parse(code).body if isinstance(node, DEFINITIONS)}
    parts, lines = [], code.splitlines()
    for name in found[2].split(", "):
        if name not in nodes:
            sys.exit(f"{path} defines no {name}, of which a notebook asks to show the source")
        node = nodes[name]
        parts.append("\n".join(lines[first_line(node, lines) - 1:node.end_lineno]))
    url = f"{GITHUB}lm336/{found[1]}.py#L{nodes[found[2].split(', ')[0]].lineno}"
    summary = f'<code>lm336/{found[1]}.py</code>: {found[2]}'
    body = "\n\n\n".join(parts)
    return (
        f'<details class="lm336-listing"><summary>{summary}</summary>\n\n'
        f"[lm336/{found[1]}.py]({url}){{.lm336-source}}\n\n"
        f"```python\n{body}\n```\n\n</details>"
    )


def drawn(found: re.Match) -> str:
    """A diagram as part of the page, so that its colours follow the page's and not the
    system's; its words for those who do not see it are the notebook's."""
    svg = (NBS/found[2]).read_text(encoding="utf-8").strip()
    svg = re.sub(r"(?s)<(title|desc)\b.*?</\1>\n?", "", svg)
    svg = re.sub(r' (?:aria-labelledby|role|id)="[^"]*"', "", svg)
    label = html.escape(found[1].replace("`", ""))
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f'```{{=html}}\n<div class="lm336-picture">{svg}</div>\n```'


def box(found: re.Match, name: str) -> str:
    "The line of facts as a box, with the notebook itself."
    facts = "\n\n".join(found["by_hand"].split(" · "))
    return f"""::: {{.lm336-facts}}
{facts}

{found["counted"]} · [Download the notebook](notebooks/{name}){{data-noresolveinput="true"}}
:::"""


def is_source(text: str) -> bool:
    "Whether what a cell printed is the source of functions or classes."
    if not re.match(r"(def|class) \w|@\w", text):
        return False
    try:
        return all(isinstance(node, DEFINITIONS) for node in ast.parse(text).body)
    except SyntaxError:
        return False


def highlighted(out):
    "An output of a cell; printed source as code that a page colours like all other."
    text = "".join(out.get("text", []))
    if out.get("name") != "stdout" or not is_source(text):
        return out
    shown = {"text/markdown": [f"```python\n{text.strip()}\n```"]}
    return {"output_type": "display_data", "data": shown, "metadata": {}}


def in_columns(out) -> bool:
    "Whether a cell printed a table, which only makes sense with its lines unbroken."
    return len(re.findall(r"(?m)^.*\S {2,}\S", "".join(out.get("text", [])))) > 1


def spaced(text: str) -> str:
    "Formulas with TeX's thin spaces around a function's name, which MathML lacks."
    name = r"\\(?:ln|cos|sin)\b"
    text = re.sub(rf"(?<=\W\w) (?={name})", r" \\,", text)
    return re.sub(rf"({name}) ?(?=[\w\\])", r"\1\\,", text)


def relative(text: str) -> str:
    "Links to our own pages relative, those to our files by way of GitHub."
    text = re.sub(re.escape(HOME) + r"(?=[\w-]+\.html)", "", text)
    return re.sub(r"\]\(\.\./(lm336/[\w/]+\.\w+)", rf"]({GITHUB}\1", text)


def folds(cell, everywhere: bool) -> bool | None:
    """Whether a cell's code is folded, by what it says itself; None where the page says so,
    which folds `everywhere`."""
    if cell.cell_type != "code":
        return False
    said = re.search(r"(?m)^#\| code-fold: (\w+)", cell.source)
    return said[1] == "true" if said else None if everywhere else False


def folded_once(cells: list, everywhere: bool) -> list:
    "Cells with what is folded in a row, and shows nothing in between, as one cell."
    found, before = [], False
    for cell in cells:
        how = folds(cell, everywhere)
        if found and how is not False and how is before and not found[-1].outputs:
            options, code = [], []
            for one in (found.pop(), cell):
                lines = one.source.strip("\n").splitlines()
                start = sum(line.startswith("#|") for line in lines)
                options += [line for line in lines[:start] if line not in options]
                code.append("\n".join(lines[start:]))
            cell.set_source("\n".join([*options, "\n\n".join(code)]))
        found.append(cell)
        before = how
    return found


def mend(path: Path, described: set[str], sources: dict[str, str]) -> None:
    """What nbdev's processing leaves to do on one notebook; `described` holds the places where
    a name has its definition."""
    nb = read_nb(path)

    def lead(link: re.Match) -> str:
        "A link to a name without a place of its own leads to its page."
        return link[0] if f"{link[1]}#{link[2]}" in described else f"]({link[1]})"

    # Quarto has links to the neighbours of its own
    cells = [cell for cell in nb.cells if not cell.source.startswith("[← ")]
    nb.cells = folded_once(cells, "\ncode-fold: true\n" in cells[0].source)
    for cell in nb.cells:
        if cell.cell_type == "raw" and cell.source.startswith("---\n"):  # what a page is about
            cell.set_source(cell.source.replace("---\n", "---\nimage: og.png\n", 1))
        if cell.cell_type == "code":
            if any(map(in_columns, cell.outputs)):
                cell.set_source(with_class("lm336-columns", cell.source))
            cell.outputs = [highlighted(out) for out in cell.outputs]
        if cell.cell_type != "markdown":
            continue
        text = spaced(relative(LISTING.sub(listing, cell.source)))
        text = re.sub(r"\]\((\w+\.html)#([\w.]+)\)", lead, text)
        text = re.sub(r"!\[([^\]]*)\]\((pictures/[\w-]+\.svg)\)", drawn, text)
        text = re.sub(r"(!\[[^\]]*\]\(loss\.png\))", r"\1{.lm336-plot}", text)
        text = with_sources(text, sources)
        facts = chapters.FACTS.fullmatch(text)
        cell.source = box(facts, path.name) if facts else text
    write_nb(nb, path)


def to_be_downloaded(text: str) -> str:
    "A notebook as it can be read alone: its pictures and links are the repository's and ours."
    raw = CFG.git_url.replace("github.com", "raw.githubusercontent.com")
    raw += f"/{CFG.branch}/nbs/"
    text = re.sub(r"\]\(((?:pictures/)?[\w-]+\.(?:svg|png))\)", rf"]({raw}\1)", text)
    text = re.sub(r'(src=\\")([\w-]+\.png)', rf"\1{raw}\2", text)
    text = re.sub(r"\]\((?:\d\d_)?(\w+)\.ipynb", rf"]({HOME}\1.html", text)
    return re.sub(r"\]\(\.\./(lm336/[\w/]+\.\w+)", rf"]({GITHUB}\1", text)


def assets(to):
    """The modules of the page, the demo model in the form that they load, the run of the
    learning slider, what two panels show before there is a model, and the stories' grammar."""
    web, demo = ROOT/"lm336/web", ROOT/"data/demo"
    if web.exists():
        shutil.copytree(web, to/"web", dirs_exist_ok=True)
    (to/"model").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(demo/name, to/"model")
    shown = "data/learn.json", "data/story.json", "data/reading.json"
    for path in (*shown, "lm336/stories.txt"):
        shutil.copy(ROOT/path, to/"model")


def proc():
    nbdev.serve.FilterDefaults = Pages
    nbdev.serve.proc_nbs(n_workers=0, force=True)
    # nbs/ holds a link to it, a line of text where git makes no links
    shutil.copy(ROOT / "_quarto.yml", PROC / "_quarto.yml")
    paths, described, sources = sorted(PROC.glob("*.ipynb")), set(), by_hand()
    for path in paths:
        page = re.sub(r"^\d+_", "", path.stem) + ".html"
        anchors = re.findall(r"\{#([\w.]+)", path.read_text(encoding="utf-8"))
        described |= {f"{page}#{anchor}" for anchor in anchors}
    for path in paths:
        mend(path, described, sources)
    assets(PROC)


BASE = """<script>
  // A page for an address that does not exist: its links start where the site does, at the
  // nearest folder above that has search.json.
  for (let at = location.pathname; at; at = at.slice(0, -1)) {
    at = at.slice(0, at.lastIndexOf("/") + 1);
    const ask = new XMLHttpRequest();
    ask.open("HEAD", at + "search.json", false);
    try { ask.send(); } catch { continue; }
    if (ask.status === 200) { document.write(`<base href="${at}">`); break; }
  }
</script>
<noscript><base href="%s"></noscript>
"""


def at_any_depth(page, path):
    """404.html, which a server sends for addresses of any depth, with its links no longer
    bound to the path that settings.ini names."""
    page = re.sub(rf"""(["'(]){re.escape(path)}""", r"\1./", page)
    return re.sub(r"(<head[^>]*>)", lambda head: f"{head[0]}\n{BASE % path}", page, count=1)


SKIP = '<a class="lm336-skip" href="#quarto-document-content">Skip to the text</a>'


def finished(page: str) -> str:
    "A page with a link for those who come by keyboard, past the sidebar to the text."
    return re.sub(r"<body[^>]*>", lambda body: f"{body[0]}\n{SKIP}", page, count=1)


def searched() -> list[dict[str, str]]:
    """What Quarto's index of the site lacks: an entry for every term of the glossary, which
    leads to where the book builds or explains it."""
    found = []
    for term in terms.read_list()["terms"]:
        page, (_, anchor) = term["page"], terms.section(term["page"], term["words"])
        href = re.sub(r"^\d+_", "", page) + f".html#{anchor}"
        name = ", ".join([term["term"], *term.get("also", [])]).replace("`", "")
        place = {"objectID": f"{href}~{terms.slug(name)}", "href": href}
        words = {"title": name, "section": terms.titles()[page], "text": term["means"]}
        found.append(place | words)
    return found


def render():
    proc()
    subprocess.run(["quarto", "render", "--no-cache"], cwd=PROC, check=True)
    missing = PROC/"_docs/404.html"
    page = missing.read_text(encoding="utf-8")
    page = at_any_depth(page, CFG.doc_baseurl.rstrip("/") + "/")
    missing.write_text(page, encoding="utf-8")
    for path in {*(PROC/"_docs").glob("*.html")} - {missing}:  # whose links begin elsewhere
        path.write_text(finished(path.read_text(encoding="utf-8")), encoding="utf-8")
    index = PROC/"_docs/search.json"
    entries = searched() + json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/"_docs", DOCS)
    for name in ("web", "model"):
        if (PROC/name).exists():
            shutil.copytree(PROC/name, DOCS/name, dirs_exist_ok=True)
    (DOCS/"notebooks").mkdir(exist_ok=True)
    for path in NBS.glob("*.ipynb"):
        text = to_be_downloaded(path.read_text(encoding="utf-8"))
        (DOCS/"notebooks"/path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    commands = {"proc": proc, "render": render}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
