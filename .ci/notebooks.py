"""What nbdev leaves to do without Quarto: notebooks run in place, README.md from index.ipynb.

    python .ci/notebooks.py execute nbs/05_rope.ipynb ...
        run top to bottom, store clean outputs
    python .ci/notebooks.py readme [--check]
        the times on the first page's map, and README.md from nbs/index.ipynb
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from queue import Empty
from time import monotonic

import nbformat
import yaml
from execnb.nbio import dict2nb, nb2str, read_nb, write_nb
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.process import extract_directives
from nbdev.processors import FilterDefaults

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
    skip_flags = frozenset(get_config().tst_flags.split())

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


def execute(path, timeout):
    root = get_config().config_path
    nb = nbformat.read(path, as_version=4)
    client = Client(
        nb,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(Path(path).parent)}},
    )
    search = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    # a finished bar is no news
    client.execute(env={**os.environ, "PYTHONPATH": search, "TQDM_DISABLE": "1"})
    merge_streams(nb)
    drop_widgets(nb)
    nb = dict2nb(json.loads(nbformat.writes(nb)))
    clean_nb(nb, clean_ids=True)
    write_nb(nb, path)
    print("ran", path)


def times_on_the_map(check):
    """The map of chapters on the first page gives each chapter the time that its own opening
    box gives; `check` only compares."""
    path = get_config().nbs_path/"index.ipynb"
    nb = read_nb(path)

    def time(entry):
        chapter = (path.parent/entry[2]).read_text(encoding="utf-8")
        box = re.search(r"\*\*Time here\*\*:? ([^.;\\]+)", chapter)
        if not box:
            sys.exit(
                f"nbs/{entry[2]} has no **Time here** in its opening box, "
                "and the first page's map needs it"
            )
        # its links lead within the chapter
        words = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", box[1])
        words = words.removesuffix(", measured at the end of the page").strip()
        return f"{entry[1]}*{words}*"

    for cell in nb.cells:
        entry = r"(?m)^(- \[[^\]]+\]\((\w+\.ipynb)\).* · )\*.*\*$"
        fresh = re.sub(entry, time, cell.source)
        if check and fresh != cell.source:
            sys.exit(
                "the map in nbs/index.ipynb has other times than the chapters' boxes: "
                "run `make readme` and commit both"
            )
        cell.source = fresh
    if not check:
        write_nb(nb, path)


def readme():
    "index.ipynb as Markdown, the way nbdev_readme would have it."
    os.environ["IN_TEST"] = "1"
    cfg = get_config()
    nb = read_nb(cfg.nbs_path / cfg.readme_nb)
    FilterDefaults()(nb)
    nb = nbformat.reads(nb2str(nb), as_version=4)
    matter = yaml.safe_load(nb.cells[0].source.strip().strip("-"))
    nb.cells = [cell for cell in nb.cells[1:] if "AUTOGENERATED" not in cell.source]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.M)
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = re.sub(r"<script.*?</script>\n?", "", body)
    body = re.sub(r'src="(\w+\.png)"', r'src="nbs/\1"', body)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    body = re.sub(r"\]\((\w+\.ipynb(?:#[^)\s]*)?)\)", r"](nbs/\1)", body)
    made = "<!-- Made from nbs/index.ipynb: edit that, then run `make readme`. -->"
    return f"# {matter['title']}\n\n{made}\n\n> {matter['description']}\n\n{body}\n"


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
    else:
        times_on_the_map(args.check)
        target, text = get_config().config_path / "README.md", readme()
        if not args.check:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            sys.exit("README.md is out of date: run `make readme` and commit it")
