"""The site from its one source: the notebooks, the page's modules, the demo run.

They are in nbs/, lm336/web and data/demo.

    python .ci/site.py proc      notebooks and assets into _proc: all that needs no Quarto
    python .ci/site.py render    the same, then Quarto's pages into _docs
"""

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import textwrap

from execnb.nbio import mk_cell, read_nb, write_nb
from fastcore import docments
from nbdev.config import get_config
from nbdev.serve import proc_nbs

CFG = get_config()
ROOT, NBS = CFG.config_path, CFG.nbs_path
PROC, DOCS = ROOT/"_proc", ROOT/"_docs"
HOME = CFG.doc_host.rstrip("/") + CFG.doc_baseurl.rstrip("/") + "/"


def tidy(text):
    "Links to our own pages relative; a parameter whose default is None has no type to tell."
    text = re.sub(re.escape(HOME) + r"(?=[\w-]+\.html)", "", text)
    return re.sub(r"(?m)^(    \w+):NoneType=None", r"\1=None", text)


def header(lines: list[str], node: ast.AST) -> list[str]:
    "The lines of a function or a class before its docstring."
    return lines[node.lineno - 1:node.body[0].lineno - 1]


def signature(thing) -> str:
    """A function as its module has it, up to the docstring; a class with its fields or its
    `__init__`."""
    source = textwrap.dedent(inspect.getsource(thing))
    lines, node = source.splitlines(), ast.parse(source).body[0]
    shown = header(lines, node)
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, ast.AnnAssign):
                shown += lines[part.lineno - 1:part.end_lineno]
            elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
                shown += header(lines, part)
    return "\n".join(shown)


def with_signature(text: str, module) -> str:
    """nbdev's documentation of a name, with the signature that stands in the module instead of
    one put together anew."""
    found = re.search(r"(?ms)^### ([\w.]+)\n+```python\n(.*?)\n```", text)
    if found is None:
        return text
    thing = module
    for name in found[1].split("."):
        thing = getattr(thing, name, None)
    thing = getattr(thing, "fget", thing)     # of a property, its function
    if thing is None:
        return text
    return text[:found.start(2)] + signature(thing) + text[found.end(2):]


def actions(name):
    """Under a chapter's title: Colab, with what its machine lacks (the package, and the files
    that chapters read), and the notebook itself."""
    repo = CFG.git_url.removeprefix("https://github.com/")
    folder = repo.split("/")[-1]
    colab = f"https://colab.research.google.com/github/{repo}/blob/{CFG.branch}/nbs/{name}"
    return f"""::: {{.lm336-actions}}
[Open in Colab]({colab}) · [Download the notebook](notebooks/{name})

<details><summary>In Colab, run this first</summary>

```
!git clone -q --depth 1 {CFG.git_url}
%cd {folder}/nbs
%pip install -q ..
```

</details>
:::"""


def mend(path, described):
    """What nbdev's processing leaves to do on one notebook; `described` holds the places where
    a name has its documentation."""
    nb = read_nb(path)
    name = path.stem.lstrip("0123456789").removeprefix("_")
    module = None
    if (ROOT/f"lm336/{name}.py").exists():
        module = importlib.import_module(f"lm336.{name}")

    def lead(link):
        "A link to a name without documentation leads to its page."
        return link[0] if link[2] in described else f"]({link[1]})"

    def settle(text):
        return re.sub(r"\]\((\w+\.html)#([\w.]+)\)", lead, tidy(text))

    for cell in nb.cells:
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if "text/markdown" in data:
                text = with_signature(settle("".join(data["text/markdown"])), module)
                data["text/markdown"] = text.splitlines(keepends=True)
        if cell.cell_type == "markdown":
            cell.source = settle(cell.source)
    if path.name[:2].isdigit():
        nb.cells.insert(1, mk_cell(actions(path.name), "markdown"))
    write_nb(nb, path)


def assets(to):
    """The modules of the page, the demo model in the form that they load, and the run of the
    learning slider."""
    web, demo = ROOT/"lm336/web", ROOT/"data/demo"
    if web.exists():
        shutil.copytree(web, to/"web", dirs_exist_ok=True)
    (to/"model").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "../learn.json"):
        shutil.copy(demo/name, to/"model")


def as_written(thing, **options):
    """`inspect.signature`; an annotation that only type checkers can read stays as it is
    written."""
    try:
        return inspect.signature(thing, **options)
    except NameError:
        return inspect.signature(thing)


def proc():
    docments.signature = as_written  # nbdev's processes are forked from this one
    proc_nbs(n_workers=2, force=True)
    # nbs/ holds a link to it, a line of text where git makes no links
    shutil.copy(ROOT / "_quarto.yml", PROC / "_quarto.yml")
    paths = list(PROC.glob("*.ipynb"))
    described = set()
    for path in paths:
        titles = re.findall(r"###+ ([\w.]+)\\n", path.read_text(encoding="utf-8"))
        described |= {name.lower() for name in titles}
    for path in paths:
        mend(path, described)
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


def render():
    proc()
    subprocess.run(["quarto", "render", "--no-cache"], cwd=PROC, check=True)
    missing = PROC/"_docs/404.html"
    page = missing.read_text(encoding="utf-8")
    page = at_any_depth(page, CFG.doc_baseurl.rstrip("/") + "/")
    missing.write_text(page, encoding="utf-8")
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/"_docs", DOCS)
    for name in ("web", "model"):
        if (PROC/name).exists():
            shutil.copytree(PROC/name, DOCS/name, dirs_exist_ok=True)
    (DOCS/"notebooks").mkdir(exist_ok=True)
    for path in NBS.glob("*.ipynb"):
        shutil.copy(path, DOCS/"notebooks")


if __name__ == "__main__":
    commands = {"proc": proc, "render": render}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
