"""What is said about the chapters in more than one place: titles, minutes, neighbours.

    python .ci/chapters.py            a table, a row for each chapter
    python .ci/chapters.py --write    the chapters' facts and feet, and the first page's map
    python .ci/chapters.py --check    a sentence for everything that differs, or is too long

A chapter begins with `# NN Title` and its promise; the first Markdown cell after
`#| default_exp` is one line of facts:

    **You need** ... · **You build** ... · **Replaces** ... · 12 minutes to read, 6 seconds
    to run · [Open in Colab](...)

What you need, what you build and, where there is one, the piece of the tour that the chapter
replaces are written by hand; the rest is counted. The minutes are words / 180 + lines of code
/ 12: the words of the Markdown and the lines of code that a reader passes, without exercises,
without what is folded (imports, and cells with `#| code-fold: true`). The seconds are those
that the chapter's last code cell printed.

The first code cell of every notebook, the one with `#| default_exp` where there is one,
installs what the notebook imports and the machine lacks, and sets the style of its plots,
which is lm336/plots.mplstyle. It is written here, JupyterLab hides it, and the site leaves it
out.
"""

import argparse
import ast
import json
import re
import sys
from configparser import ConfigParser
from functools import cached_property
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
CHINESE = ROOT / "README.zh-CN.md"
COLAB = "https://colab.research.google.com/github/lm336/lm336/blob/main/nbs/"
MOST_WORDS, MOST_CODE = 2_000, 350  # of a chapter of the main line
MAIN_LINE = range(16)
FACTS = re.compile(
    r"(?P<by_hand>\*\*You need\*\* (?:(?! · ).)+(?: · \*\*You build\*\* (?:(?! · ).)+)?"
    r"(?: · \*\*Replaces\*\* (?:(?! · ).)+)?)"
    r" · (?P<counted>\d+ minutes? to read, \d+ seconds? to run · "
    r"\[Open in Colab\]\([^)]+\))"
)
ON_THE_MAP = re.compile(r"(?m)^- \[([^\]]+)\]\((\d\d_\w+\.ipynb)\) (.+) · \*(.+)\*$")
IN_CHINESE = re.compile(
    r"(?m)^(- \[(\d\d) [^\]]+\]\(nbs/(\d\d_\w+\.ipynb)\) .+ · \*)\d+( 分钟\*)$"
)
SETUP = """\
# Installs what is missing, as in Colab; in a clone, lm336 lies beside this folder.
import sys
from importlib.util import find_spec
from os.path import exists

if not find_spec("lm336"):
    source = "-e .." if exists("../setup.py") else "git+https://github.com/lm336/lm336"
    %pip install -q {source}
    sys.path.append("..")
"""
SECONDS = (
    'print(f"all cells above: {time.process_time():.0f} s of one CPU core, '
    'the imports included")'
)
EXTRA = """\
if not find_spec("NAME"):
    %pip install -q NAME
"""
PLOTS = """\

import matplotlib.pyplot as plt

plt.style.use("lm336.plots")
%config InlineBackend.figure_format = "retina"
"""
EXERCISE = re.compile(r"### Exercise \d\d\.\d+: ")
ANSWERED = re.compile(r"<summary>(Solution|Answer)</summary>")
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]+\)|<img |lm336-widget")


def plural(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def words(markdown: str) -> int:
    "How many words a reader reads: no code blocks, no targets of links, no tags, no foot."
    text = re.sub(r"(?ms)^```.*?^```$", "", markdown)
    text = re.sub(r"(?s)<script.*?</script>|<[^>]+>", "", text)
    text = re.sub(r"(?m)^\[←.*$", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def directives(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.startswith("#|")]


def parsed(source: str) -> ast.Module:
    "The syntax of a code cell; magics are no Python."
    return ast.parse(re.sub(r"(?m)^([ \t]*)[%!].*", r"\1pass", source))


def imports(statement: ast.stmt) -> bool:
    "Whether a statement imports, or does what only type checkers read."
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) == "TYPE_CHECKING"
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def only_imports(source: str) -> bool:
    "Whether a code cell does nothing but import."
    try:
        body = parsed(source).body
    except SyntaxError:
        return False
    return bool(body) and all(map(imports, body))


def is_setup(source: str) -> bool:
    "Whether a code cell is the one that installs what is missing."
    return SETUP in source + "\n"


def is_hidden(source: str) -> bool:
    "Whether JupyterLab shows a code cell only when asked."
    return only_imports(source) or is_setup(source)


def is_folded(source: str) -> bool:
    "Whether the page shows a code cell only when asked, or never."
    says_so = [re.match(r"#\| *code-fold: *true", line) for line in directives(source)]
    return is_hidden(source) or any(says_so)


def provided() -> set[str]:
    "The modules that are there where lm336 is installed and a notebook runs."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    required = settings["DEFAULT"]["requirements"].split()
    names = {re.split(r"[<>=!~]", one)[0] for one in required}
    return {"lm336", "IPython", "traitlets", *names, *sys.stdlib_module_names}


def imported(code: list[str]) -> set[str]:
    "The packages that these cells import."
    found = set()
    for node in (node for text in code for node in ast.walk(parsed(text))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(f"{node.module}".split(".")[0])
    return found


def lacking(code: list[str]) -> list[str]:
    "What these cells import that does not come with lm336."
    return sorted(imported(code) - provided())


def setup_at(nb: dict) -> int | None:
    "Where a notebook's first code cell is, or should be; None for one without code."
    code = [at for at, cell in enumerate(nb["cells"]) if cell["cell_type"] == "code"]
    return code[0] if code else None


def setup_of(nb: dict) -> str:
    "What the first code cell of a notebook with code should be."
    code = ["".join(one["source"]) for one in nb["cells"] if one["cell_type"] == "code"]
    first = code[0].splitlines()[0]
    directive = first if first.startswith("#| default_exp") else "#| hide"
    extras = [EXTRA.replace("NAME", name) for name in lacking(code)]
    if "matplotlib" in imported(code[1:]):
        extras.append(PLOTS)
    return "\n".join([directive, SETUP + "".join(extras)]).rstrip()


class Chapter:
    "A numbered notebook, and what can be counted in it."

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.number = int(path.name[:2])
        self.nb = json.loads(path.read_text(encoding="utf-8"))
        self.cells = [(one["cell_type"], "".join(one["source"])) for one in self.nb["cells"]]

    @property
    def title(self) -> str:
        "The first heading, number and all."
        found = re.match(r"# (.+)", self.cells[0][1])
        return found[1] if found else ""

    @cached_property
    def facts_at(self) -> int | None:
        "Where the line of facts is: the first Markdown cell after `#| default_exp`."
        kinds = [kind for kind, _ in self.cells]
        exported = [i for i, (_, text) in enumerate(self.cells) if "default_exp" in text]
        if not exported or "markdown" not in kinds[exported[0]:]:
            return None
        return kinds.index("markdown", exported[0])

    @cached_property
    def read(self) -> list[tuple[str, str, dict]]:
        "(kind, text, cell) of what a reader passes: no exercises, no facts."
        found, in_exercise, at_the_end = [], False, False
        for at, (kind, text) in enumerate(self.cells):
            if kind == "markdown" and text.startswith("## "):
                in_exercise = False
                at_the_end = text.startswith("## Exercises")
            if kind == "markdown" and EXERCISE.match(text):
                in_exercise = True
            if not in_exercise and not at_the_end and at != self.facts_at:
                found.append((kind, text, self.nb["cells"][at]))
            if kind == "markdown" and ANSWERED.search(text):
                in_exercise = False
        return found

    @property
    def words(self) -> int:
        return sum(words(text) for kind, text, _ in self.read if kind == "markdown")

    @property
    def code(self) -> int:
        "Lines of code, but for blank ones, directives and what is folded."
        shown = [text for kind, text, _ in self.read if kind == "code" and not is_folded(text)]
        lines = [line for text in shown for line in text.splitlines()]
        return sum(bool(line.strip()) and not line.startswith("#|") for line in lines)

    @property
    def minutes(self) -> int:
        return max(1, round(self.words / 180 + self.code / 12))

    @property
    def seconds(self) -> int | None:
        "What the last code cell measured."
        last = [one for one in self.nb["cells"] if one["cell_type"] == "code"][-1]
        said = "".join(text for out in last["outputs"] for text in out.get("text", []))
        found = re.search(r"all cells above: (\d+) s", said)
        return max(1, int(found[1])) if found else None

    @cached_property
    def pictures(self) -> list[int]:
        "For every picture the section that it is in; before the first heading it is 0."
        found, section = [], 0
        for kind, text, cell in self.read:
            if kind == "markdown":
                parts = re.split(r"(?m)^## ", text)
                for at, part in enumerate(parts):
                    section += at > 0
                    found += [section] * len(PICTURE.findall(part))
            for out in cell.get("outputs", []):
                kinds = out.get("data", {})
                found += [section] * any(one.startswith("image/") for one in kinds)
        return found

    @property
    def exercises(self) -> int:
        prose = [text for kind, text in self.cells if kind == "markdown"]
        return sum(bool(EXERCISE.match(text)) for text in prose)

    @property
    def first_exported(self) -> int | None:
        "The how many-th code cell that does more than import is the first to be exported."
        code = [text for kind, text in self.cells if kind == "code"]
        shown = [text for text in code if "default_exp" not in text and not only_imports(text)]
        exported = [re.match(r"#\| *export\b", text) is not None for text in shown]
        return exported.index(True) + 1 if any(exported) else None

    @property
    def counted(self) -> str:
        "The part of the facts that nobody writes by hand."
        minutes, seconds = plural(self.minutes, "minute"), plural(self.seconds or 0, "second")
        colab = f"[Open in Colab]({COLAB}{self.name})"
        return f"{minutes} to read, {seconds} to run · {colab}"

    @property
    def facts(self) -> re.Match | None:
        return FACTS.fullmatch(self.cells[self.facts_at][1]) if self.facts_at else None

    def excesses(self) -> list[str]:
        "What a chapter of the main line has too much of, or too late."
        if self.number not in MAIN_LINE:
            return []
        found = []
        if self.words > MOST_WORDS:
            found.append(f"{self.words:,} words, more than {MOST_WORDS:,}")
        if self.code > MOST_CODE:
            found.append(f"{self.code} lines of code, more than {MOST_CODE}")
        if not self.pictures or self.pictures[0] > 2:
            found.append("no picture before the third section")
        return found


def chapters() -> list[Chapter]:
    return [Chapter(path) for path in sorted(NBS.glob("[0-9][0-9]_*.ipynb"))]


def sidebar() -> list[str]:
    "The numbered notebooks, in the order in which the sidebar has them."
    text = (NBS / "sidebar.yml").read_text(encoding="utf-8")
    sections = yaml.safe_load(text)["website"]["sidebar"]["contents"]
    listed = [section["contents"] for section in sections if "contents" in section]
    return [name for names in listed for name in names if re.match(r"\d\d_", name)]


def foot(at: int, found: list[Chapter]) -> str:
    "The links to the chapters before and after one."
    before, after = "[← The tour](tour.ipynb)", "[Exercises →](exercises.ipynb)"
    if at > 0:
        before = f"[← {found[at - 1].title}]({found[at - 1].name})"
    if at + 1 < len(found):
        after = f"[{found[at + 1].title} →]({found[at + 1].name})"
    return f"{before} · {after}"


def on_the_map(text: str, found: list[Chapter]) -> str:
    "The first page's map with the chapters' titles and minutes."
    by_name = {one.name: one for one in found}

    def entry(old: re.Match) -> str:
        one = by_name.get(old[2])
        return f"- [{one.title}]({old[2]}) {old[3]} · *{one.minutes} min*" if one else old[0]

    return from_perfect(ON_THE_MAP.sub(entry, text))


def on_the_chinese_map(text: str, found: list[Chapter]) -> str:
    "README.zh-CN.md's map with the chapters' minutes; its titles are translated by hand."
    minutes = {one.name: one.minutes for one in found}

    def entry(old: re.Match) -> str:
        return f"{old[1]}{minutes[old[3]]}{old[4]}" if old[3] in minutes else old[0]

    return from_perfect(IN_CHINESE.sub(entry, text))


def from_perfect(text: str) -> str:
    "The first page, or its Chinese version, with the gap that data/demo/report.md states."
    report = (ROOT / "data/demo/report.md").read_text(encoding="utf-8")
    gap = re.search(r"; ([\d.]+%) above the entropy floor", report)
    assert gap, "data/demo/report.md does not say how far above its floor the model is"
    places = r"[\d.]+%(?= (?:from perfect|above that floor))|(?<=[差高] )[\d.]+%"
    return re.sub(places, gap[1], text)


def misnamed(text: str, titles: dict[str, str]) -> list[str]:
    "The links to a chapter that begin with a number and are not its title."
    links = re.findall(r"\[(?:← )?(\d\d [^\]]+?)(?: →)?\]\((\d\d_\w+\.ipynb)\)", text)
    return [f"[{said}]({name})" for said, name in links if said != titles.get(name, said)]


def source_of(cell: dict, text: str) -> None:
    cell["source"] = text.splitlines(keepends=True)


def save(path: Path, nb: dict) -> None:
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_setup(path: Path) -> None:
    "The cell that lets a notebook run alone."
    nb = json.loads(path.read_text(encoding="utf-8"))
    at = setup_at(nb)
    if at is None:
        return
    before, wanted = json.dumps(nb), setup_of(nb)
    if not re.match(r"#\| (default_exp|hide\n# Installs)", "".join(nb["cells"][at]["source"])):
        empty = {"execution_count": None, "id": "setup", "metadata": {}, "outputs": []}
        nb["cells"].insert(at, {"cell_type": "code", **empty, "source": []})
    source_of(nb["cells"][at], wanted)
    nb["cells"][at]["metadata"]["jupyter"] = {"source_hidden": True}
    if json.dumps(nb) != before:
        save(path, nb)


def check_setup(path: Path) -> list[str]:
    "A sentence if a notebook cannot run alone."
    nb = json.loads(path.read_text(encoding="utf-8"))
    at, found = setup_at(nb), []
    if at is None:
        return []
    if "".join(nb["cells"][at]["source"]) != setup_of(nb):
        why = "must begin with the cell that installs what it imports"
        found.append(f"nbs/{path.name}: {why}: run python .ci/chapters.py --write")
    badge = f"[Open in Colab]({COLAB}{path.name})"
    if not any(badge in "".join(cell["source"]) for cell in nb["cells"]):
        found.append(f"nbs/{path.name}: must have its badge, {badge}")
    return found


def write(names: list[str]) -> None:
    "The notebooks' first cells, the chapters' counted facts, feet, and what JupyterLab hides."
    for path in sorted(NBS.glob("*.ipynb")):
        if path.name in names:
            write_setup(path)
    found = chapters()
    for at, one in enumerate(found):
        if one.name not in names:
            continue
        before = json.dumps(one.nb)
        for cell, (kind, text) in zip(one.nb["cells"], one.cells, strict=True):
            cell["metadata"].pop("jupyter", None)
            if kind == "code" and is_hidden(text):
                cell["metadata"]["jupyter"] = {"source_hidden": True}
        if one.facts:
            line = f"{one.facts['by_hand']} · {one.counted}"
            source_of(one.nb["cells"][one.facts_at], line)
        kind, text = one.cells[-1]
        if kind != "markdown" or not text.startswith("[←"):
            last = {"cell_type": "markdown", "id": "foot", "metadata": {}, "source": []}
            one.nb["cells"].append(last)
        source_of(one.nb["cells"][-1], foot(at, found))
        if json.dumps(one.nb) != before:
            save(one.path, one.nb)


def write_map() -> None:
    "The titles and minutes on the first page, and the minutes in README.zh-CN.md."
    found, path = chapters(), NBS / "index.ipynb"
    nb = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(nb)
    for cell in nb["cells"]:
        source_of(cell, on_the_map("".join(cell["source"]), found))
    if json.dumps(nb) != before:
        save(path, nb)
    old = CHINESE.read_text(encoding="utf-8")
    if (new := on_the_chinese_map(old, found)) != old:
        CHINESE.write_text(new, encoding="utf-8")


def wrong_with(one: Chapter, last_line: str) -> list[str]:
    "What differs in one chapter from what is counted or fixed."
    found = []
    again = "run python .ci/chapters.py --write"
    if not re.fullmatch(rf"# {one.number:02} .+\n\n> .+", one.cells[0][1], re.S):
        found.append(f"must begin with `# {one.number:02} Title`, then its `> promise`")
    if one.seconds is None:
        found.append(f"the last code cell must be, and have printed its seconds: {SECONDS}")
    if not one.facts or "**You build**" not in one.facts["by_hand"]:
        found.append(
            "needs a line of facts after #| default_exp: **You need** ... · **You build** ... "
            "· 1 minute to read, 1 second to run · [Open in Colab](...)"
        )
    elif one.facts["counted"] != one.counted:
        found.append(f"facts say {one.facts['counted']!r}, not {one.counted!r}: {again}")
    if one.cells[-1] != ("markdown", last_line):
        found.append(f"must end with a cell {last_line!r}: {again}")
    tops = [text for kind, text in one.cells[:-1] if kind == "markdown" and "[← " in text]
    if tops:
        found.append("links to the neighbours stand at the foot only")
    folded = [text for kind, text in one.cells if kind == "code" and "code-fold" in text]
    if any(re.match(r"#\| *export", text) for text in folded):
        found.append("#| code-fold in an exported cell would be exported too")
    hidden = [one.nb["cells"][at]["metadata"].get("jupyter") == {"source_hidden": True}
              for at in range(len(one.cells))]
    if hidden != [kind == "code" and is_hidden(text) for kind, text in one.cells]:
        found.append(f"JupyterLab should hide the first cell and imports, no others: {again}")
    return found


def check_links(found: list[Chapter]) -> list[str]:
    "A sentence for every link that gives a chapter another name; for every `:::`."
    faults, titles = [], {one.name: one.title for one in found}
    for path in sorted(NBS.glob("*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        prose = [cell for cell in nb["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in prose)
        wrong = misnamed(text, titles)
        faults += [f"nbs/{path.name}: {link} is not the chapter's title" for link in wrong]
        if ":::" in text:
            faults.append(f"nbs/{path.name}: `:::` is text in JupyterLab: quote with `> `")
    return faults


def check_map(found: list[Chapter]) -> list[str]:
    "The same for the first page, whose map gives every chapter's title and minutes."
    faults = []
    nb = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in nb["cells"])
    if on_the_map(text, found) != text:
        faults.append("nbs/index.ipynb: the map differs: run make readme")
    if [name for _, name, *_ in ON_THE_MAP.findall(text)] != [one.name for one in found]:
        line = "`- [32 Title](32_name.ipynb) what it is about · *1 min*`"
        faults.append(
            f"nbs/index.ipynb: the map must have a line {line} for every chapter, in order"
        )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line[0].replace("](", "](nbs/", 1) for line in ON_THE_MAP.finditer(text)]
    if not all(line in readme for line in lines):
        faults.append("README.md: the map differs from nbs/index.ipynb: run make readme")
    text = CHINESE.read_text(encoding="utf-8")
    if on_the_chinese_map(text, found) != text:
        faults.append("README.zh-CN.md: the map's minutes differ: run make readme")
    listed = [(number, name) for _, number, name, _ in IN_CHINESE.findall(text)]
    if listed != [(one.name[:2], one.name) for one in found]:
        line = "`- [32 标题](nbs/32_name.ipynb) 内容 · *1 分钟*`"
        faults.append(
            f"README.zh-CN.md: the map must have a line {line} for every chapter, in order"
        )
    return faults


def check_sidebar(found: list[Chapter]) -> list[str]:
    "A sentence if the sidebar has other chapters, or another order."
    if sidebar() == [one.name for one in found]:
        return []
    names = {one.name for one in found} ^ set(sidebar())
    which = f"; see to {', '.join(sorted(names))}" if names else ""
    where = "nbs/sidebar.yml: its sections must have the chapters once, by number"
    return [where + which]


def check(found: list[Chapter]) -> list[str]:
    "A sentence for everything that differs or is too long."
    faults = check_links(found) + check_map(found)
    for path in sorted(NBS.glob("*.ipynb")):
        faults += check_setup(path)
    faults += check_sidebar(found)
    for at, one in enumerate(found):
        said = wrong_with(one, foot(at, found)) + one.excesses()
        faults += [f"nbs/{one.name}: {sentence}" for sentence in said]
    return faults


def row(one: Chapter) -> str:
    first = one.pictures[0] if one.pictures else "-"
    cells = [one.title, f"{one.words:,}", one.code, one.minutes, one.seconds or "-",
             len(one.pictures), first, one.exercises, one.first_exported or "-"]
    return f"| {' | '.join(map(str, cells))} |"


def table(found: list[Chapter]) -> str:
    head = ["chapter", "words", "lines of code", "minutes", "seconds", "pictures",
            "first picture in section", "exercises", "first exported cell"]
    return "\n".join([f"| {' | '.join(head)} |", "|---|" + "--:|" * 8, *map(row, found)])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="update what is counted")
    parser.add_argument("--check", action="store_true", help="only say what differs")
    arguments = parser.parse_args()
    found = chapters()
    if arguments.write:
        write([path.name for path in NBS.glob("*.ipynb")])
        write_map()
    elif arguments.check:
        said = check(found)
        sys.exit("\n".join(said) if said else 0)
    else:
        print(table(found))


if __name__ == "__main__":
    main()
