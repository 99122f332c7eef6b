"""The site from its one source: notebooks in nbs/, the page's modules in lm336/web, the demo run in data/demo.

    python .ci/site.py proc      notebooks and assets into _proc, as far as it goes without Quarto
    python .ci/site.py render    the same, then Quarto's pages into _docs
"""
import re, shutil, subprocess, sys

from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.serve import proc_nbs

CFG = get_config()
ROOT, NBS, PROC, DOCS = CFG.config_path, CFG.nbs_path, CFG.config_path/"_proc", CFG.config_path/"_docs"
HOME = CFG.doc_host.rstrip("/") + CFG.doc_baseurl.rstrip("/") + "/"


def tidy(text):
    "Links to our own pages relative; a parameter whose default is None has no type to tell."
    text = re.sub(re.escape(HOME) + r"(?=[\w-]+\.html)", "", text)
    return re.sub(r"(?m)^(    \w+):NoneType=None", r"\1=None", text)


def actions(name):
    "Under a chapter's title: Colab and the notebook itself."
    repo = CFG.git_url.removeprefix("https://github.com/")
    return (f"[Open in Colab](https://colab.research.google.com/github/{repo}/blob/{CFG.branch}/nbs/{name}) · "
            f"[Download the notebook](notebooks/{name})")


def mend(path):
    "What nbdev's processing leaves to do on one notebook."
    nb = read_nb(path)
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if "text/markdown" in data: data["text/markdown"] = tidy("".join(data["text/markdown"])).splitlines(keepends=True)
        if cell.cell_type == "markdown": cell.source = tidy(cell.source)
    if path.name[:2].isdigit(): nb.cells.insert(1, mk_cell(actions(path.name), "markdown"))
    write_nb(nb, path)


def assets(to):
    "The modules of the page, the demo model in the form that they load, and the run of the learning slider."
    web, demo = ROOT/"lm336/web", ROOT/"data/demo"
    if web.exists(): shutil.copytree(web, to/"web", dirs_exist_ok=True)
    (to/"model").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "../learn.json"): shutil.copy(demo/name, to/"model")


def proc():
    proc_nbs(n_workers=2, force=True)
    shutil.copy(ROOT/"_quarto.yml", PROC/"_quarto.yml")     # nbs/ holds a link to it, a line of text where git makes no links
    for path in PROC.glob("*.ipynb"): mend(path)
    assets(PROC)


def render():
    proc()
    subprocess.run(["quarto", "render", "--no-cache"], cwd=PROC, check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/"_docs", DOCS)
    for name in ("web", "model"):
        if (PROC/name).exists(): shutil.copytree(PROC/name, DOCS/name, dirs_exist_ok=True)
    (DOCS/"notebooks").mkdir(exist_ok=True)
    for path in NBS.glob("*.ipynb"): shutil.copy(path, DOCS/"notebooks")


if __name__ == "__main__":
    commands = {"proc": proc, "render": render}
    if len(sys.argv) != 2 or sys.argv[1] not in commands: sys.exit(__doc__)
    commands[sys.argv[1]]()
