"""What nbdev leaves to do without Quarto: notebooks run in place, README.md from index.ipynb.

    python .ci/notebooks.py execute nbs/05_rope.ipynb ...
        run top to bottom, store clean outputs and the seconds they took
    python .ci/notebooks.py readme [--check]
        README.md from nbs/index.ipynb, whose map has the chapters' titles and minutes
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from queue import Empty
from time import monotonic

import chapters
import nbformat
import yaml
from execnb.nbio import dict2nb, nb2str, read_nb, write_nb
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.process import extract_directives
from nbdev.processors import FilterDefaults

ROOT = Path(__file__).parents[1]
LANGUAGES = "English · [简体中文](README.zh-CN.md)"
LINKS = (
    "**[Read it on the web]({site}/)**, where this panel is alive · "
    "[Open the tour in Colab]({colab}tour.ipynb)"
)
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def poll_in_slices(channel, seconds=0.25):
    """Never wait long at once: nbclient can miss a message while a widget's comm replies
    (jupyter/nbclient#312)."""
    get_msg = channel.get_msg

    async def sliced(*args, timeout=None, **kwargs):
        end = None if timeout is None else monotonic() + timeout
        while True:
            left = seconds if end is None else max(0, min(seconds, end - monotonic()))
            try:
                return await get_msg(*args, timeout=left, **kwargs)
            except Empty:
                if end is not None and monotonic() >= end:
                    raise

    channel.get_msg = sliced


class Client(NotebookClient):
    "Runs the cells that nbdev_test would run."
    skip_flags = frozenset(get_config(path=ROOT).tst_flags.split())

    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        poll_in_slices(client.shell_channel)
        poll_in_slices(client.iopub_channel)
        return client

    def wanted(self, cell):
        if cell.cell_type != "code":
            return False
        copy = json.loads(json.dumps(cell))
        alone = {"cells": [copy], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        found = extract_directives(dict2nb(alone).cells[0], remove=False)
        evaluated = found.get("eval:", ["true"])[0].lower() != "false"
        return evaluated and not self.skip_flags & set(found)

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if not self.wanted(cell):
            return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def merge_streams(nb):
    """One output per run of stdout or stderr: how a kernel happens to cut them is not worth a
    diff."""
    for cell in nb.cells:
        merged = []
        for out in cell.get("outputs", []):
            last = merged[-1] if merged else None
            kinds = {out.output_type, last.output_type} if last else set()
            if last and kinds == {"stream"} and out.name == last.name:
                last.text += out.text
            else:
                merged.append(out)
        if cell.cell_type == "code":
            cell.outputs = merged


def drop_widgets(nb):
    """A widget without a kernel is dead, on the page and in a diff: it is there when the
    notebook is run."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            shown = [out for out in cell.outputs if WIDGET_VIEW not in out.get("data", {})]
            cell.outputs = shown
    nb.metadata.pop("widgets", None)


def drop_advice(nb):
    "%timeit says more of a busy machine than its mean and deviation, and blames a cache."
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            if out.output_type == "stream":
                said = "".join(out.text)  # a text, or its lines
                out.text = re.sub(r"(?m)^The slowest run took .* cached\.\n", "", said)


def as_committed(nb):
    "A notebook without what another run, or another editor, would change for no reason."
    merge_streams(nb)
    drop_advice(nb)
    drop_widgets(nb)
    clean_nb(nb, allowed_cell_metadata_keys=["jupyter"], clean_ids=True)


def execute(path, timeout):
    nb = nbformat.read(path, as_version=4)
    client = Client(
        nb,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(Path(path).parent)}},
    )
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # a finished bar is no news
    client.execute(env={**os.environ, "PYTHONPATH": search, "TQDM_DISABLE": "1"})
    as_committed(nb)
    write_nb(dict2nb(json.loads(nbformat.writes(nb))), path)
    print("ran", path)


def readme():
    "index.ipynb as Markdown, the way nbdev_readme would have it."
    os.environ["IN_TEST"] = "1"
    cfg = get_config(path=ROOT)
    nb = read_nb(cfg.nbs_path / cfg.readme_nb)
    FilterDefaults()(nb)
    nb = nbformat.reads(nb2str(nb), as_version=4)
    matter = yaml.safe_load(nb.cells[0].source.strip().strip("-"))
    nb.cells = [cell for cell in nb.cells[1:] if "AUTOGENERATED" not in cell.source]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.M)
    body, _ = MarkdownExporter().from_notebook_node(nb)
    panel = re.search(r'<p><img src="sampler\.png".*?</p>\n', body)
    assert panel, "nbs/index.ipynb has no panel, <p><img src=\"sampler.png\" ...></p>"
    body = re.sub(r"<p><img .*?</p>\n", "", body)  # the panels' pictures
    body = re.sub(r"<script.*?</script>\n?", "", body)
    body = re.sub(r"(?m)^</?div\b.*\n?", "", body)  # columns of the site
    body = re.sub(r"\]\(((?:pictures/)?[\w-]+\.(?:svg|png))\)", r"](nbs/\1)", body)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    body = re.sub(r"\]\((\w+\.ipynb(?:#[^)\s]*)?)\)", r"](nbs/\1)", body)
    # what lives on the site alone
    body = re.sub(r'<p><img src="train-here\.png".*?</p>\n', "", body)
    body = re.sub(r"\*\*\[Start\].*\n+", "", body)
    commands = re.search(r"(?s)```bash\ngit clone .*?```\n", body)  # the site's come later
    assert commands, "nbs/index.ipynb has no block that begins with git clone"
    body = body.replace(f"{commands[0]}\n", "")
    made = "<!-- Made from nbs/index.ipynb: edit that, then run `make readme`. -->"
    picture = panel[0].strip().replace("sampler.png", "nbs/sampler.gif")
    links = LINKS.format(site=cfg.doc_host + cfg.doc_baseurl, colab=chapters.COLAB)
    title = f"lm336: {matter['title'][0].lower()}{matter['title'][1:]}"
    parts = f"# {title}", made, LANGUAGES, f"> {matter['description']}"
    return "\n\n".join([*parts, links, picture, commands[0].strip(), body]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("execute")
    run.add_argument("notebooks", nargs="+")
    run.add_argument("--timeout", type=int, default=600, help="seconds for a cell")
    write = commands.add_parser("readme")
    write.add_argument(
        "--check", action="store_true", help="only say whether README.md is up to date"
    )
    args = parser.parse_args()
    if args.command == "execute":
        for path in args.notebooks:
            execute(path, args.timeout)
        chapters.write([Path(path).name for path in args.notebooks])
    else:
        if not args.check:
            chapters.write_map()
        target, text = ROOT / "README.md", readme()
        if not args.check:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            sys.exit("README.md is out of date: run `make readme` and commit it")
