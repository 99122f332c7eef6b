"""The terms of the book: where each is explained, and the glossary made of them.

    python .ci/terms.py            a table: each term, where it is explained and first used
    python .ci/terms.py TERM ...   the first uses of these terms in reading order, in context
    python .ci/terms.py --write    nbs/glossary.ipynb, from nbs/terms.json
    python .ci/terms.py --check    a sentence for everything that is wrong

In nbs/terms.json a term has its definition (`means`), the page that explains it and `words` of
that page that do, as they stand there; the glossary links to their section. Where an earlier
page uses the term first, `first` has the page and the words that explain it there. `spellings`
are regular expressions for its uses, `also` are other names that readers search for. Uses in
titles, lines of facts, code, and in links to other pages do not count.
"""

import argparse
import json
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
LIST = NBS / "terms.json"
GLOSSARY = NBS / "glossary.ipynb"
TITLE = """# Glossary

> The terms of the book, each in one sentence with the section that explains it; its symbols"""
PAGE_LINK = re.compile(r"!?\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)]*)\)")


def pages() -> list[str]:
    "The book's pages in reading order."
    tour = ["tour"] if (NBS / "tour.ipynb").exists() else []
    return tour + sorted(path.stem for path in NBS.glob("[0-9][0-9]_*.ipynb"))


@cache
def prose(page: str) -> list[str]:
    "A page's Markdown, cell by cell; code cells, title, facts and foot are empty texts."
    cells = json.loads((NBS / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(c["source"]) if c["cell_type"] == "markdown" else "" for c in cells]
    aside = re.compile(r"# |\*\*You need\*\*|\[← ")
    return ["" if aside.match(text) else text for text in texts]


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def plain(text: str) -> str:
    "Markdown without code, formulas, tags, folds, papers and links to other pages."
    text = re.sub(r"(?ms)^```.*?^```$", " ", text)
    text = re.sub(r"(?s)<details>.*?</details>", " ", text)
    text = re.sub(r"(?s)(\*\*Papers\.\*\*|## Papers).*", " ", text)
    text = re.sub(r"(?s)<script.*?</script>|<[^>]+>", " ", text)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`", " ", text, flags=re.S)

    def kept(link: re.Match) -> str:
        return " " if link[0].startswith("!") or ".ipynb" in link[2] else link[1]

    return one_line(PAGE_LINK.sub(kept, text))


def spelled(term: dict) -> re.Pattern:
    "What finds a term's uses."
    return re.compile(rf"(?<![\w@-])(?:{'|'.join(term['spellings'])})(?![\w-])", re.I)


def uses(term: dict):
    "(page, cell, place, text) of each use, in reading order."
    pattern = spelled(term)
    for page in pages():
        for at, text in enumerate(prose(page)):
            text = plain(text)
            for found in pattern.finditer(text):
                yield page, at, found.start(), text


def cell_of(page: str, words: str) -> int | None:
    "The cell of a page that has these words, line breaks aside."
    if not (NBS / f"{page}.ipynb").exists():
        return None
    cells = enumerate(map(one_line, prose(page)))
    return next((at for at, text in cells if one_line(words) in text), None)


def slug(heading: str) -> str:
    "The id that Pandoc gives a heading, as in tests/test_site.py."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip()
    text = "".join(c for c in text.lower() if c.isalnum() or c in "_-." or c.isspace())
    return re.sub(r"^[^a-zà-ÿ]*", "", re.sub(r"\s+", "-", text)) or "section"


def section(page: str, words: str) -> tuple[str, str]:
    "(heading, id) of the section in which a page has these words, exercises aside."
    last = cell_of(page, words)
    if last is None:
        return "", ""
    seen: dict[str, int] = {}
    heading, anchor = "", ""
    for at, text in enumerate(prose(page)[: last + 1]):
        if at == last:
            text = text[: re.search(r"\s+".join(map(re.escape, words.split())), text).start()]
        text = re.sub(r"(?ms)^```.*?^```$", "", text)
        for title in re.findall(r"(?m)^#{2,6} +(.+?)\s*$", text):
            name = slug(title)
            if not title.startswith("Exercise"):
                heading, anchor = title, f"{name}-{seen[name]}" if seen.get(name) else name
            seen[name] = seen.get(name, 0) + 1
    return heading, anchor


def explained(term: dict) -> tuple[str, int | None]:
    "(page, cell) of the first explanation."
    first = term.get("first", term)
    return first["page"], cell_of(first["page"], first["words"])


def faults_of(term: dict) -> list[str]:
    "A sentence for each thing that is wrong with a term."
    name, faults = term["term"], []
    for place in filter(None, (term, term.get("first"))):
        if cell_of(place["page"], place["words"]) is None:
            faults.append(f"{name}: nbs/{place['page']}.ipynb does not say {place['words']!r}")
    if faults:
        return faults
    order, use = pages(), next(uses(term), None)
    page, cell = explained(term)
    if use is not None and (order.index(use[0]), use[1]) < (order.index(page), cell):
        context = use[3][max(0, use[2] - 60) : use[2] + 60]
        faults.append(
            f"{name}: used in nbs/{use[0]}.ipynb, cell {use[1]} (...{context}...), but "
            f"explained in {page}, cell {cell}: explain it there, or name the words that do"
        )
    return faults


def read_list() -> dict:
    return json.loads(LIST.read_text(encoding="utf-8"))


@cache
def titles() -> dict[str, str]:
    "The name of each page, as .ci/chapters.py reads it."
    found = {}
    for page in pages():
        cells = json.loads((NBS / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
        found[page] = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
    return found


def entry(term: dict) -> str:
    "A term's line in the glossary."
    page, (heading, anchor) = term["page"], section(term["page"], term["words"])
    target = f"{page}.ipynb#{anchor}" if anchor else f"{page}.ipynb"
    there = f"[{titles()[page]}]({target})"
    about = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return f"**{term['term']}** · {term['means']} {there}" + (f": {about}" if about else "")


def letter(term: dict) -> str:
    return re.search(r"[a-zA-Z]", term["term"])[0].upper()


def markdown(name: str, text: str) -> dict:
    lines = text.splitlines(keepends=True)
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": lines}


def glossary() -> str:
    "The text of nbs/glossary.ipynb."
    found = read_list()
    terms = sorted(found["terms"], key=lambda term: (letter(term), term["term"].lower()))
    cells = [markdown("glossary-top", TITLE)]
    for initial in sorted({letter(term) for term in terms}):
        entries = "\n\n".join(entry(term) for term in terms if letter(term) == initial)
        cells.append(markdown(f"glossary-{initial.lower()}", f"## {initial}\n\n{entries}"))
    rows = ["| symbol | in the code | shape | meaning | chapter |", "|---|---|---|---|---|"]
    for each in found["symbols"]:
        name = ", ".join(f"`{part}`" for part in each["name"].split(", "))
        shape = f"`{each['shape']}`" if each["shape"].startswith("(") else each["shape"]
        there = f"[{titles()[each['page']]}]({each['page']}.ipynb)"
        rows.append(f"| {each['symbol']} | {name} | {shape} | {each['means']} | {there} |")
    cells.append(markdown("glossary-symbols", "## Symbols\n\n" + "\n".join(rows)))
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nb = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4}
    nb["nbformat_minor"] = 5
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


def check() -> list[str]:
    "A sentence for everything that is wrong."
    faults = [fault for term in read_list()["terms"] for fault in faults_of(term)]
    faults += [
        f"symbol {each['symbol']}: there is no page {each['page']}"
        for each in read_list()["symbols"]
        if each["page"] not in pages()
    ]
    if not faults and GLOSSARY.read_text(encoding="utf-8") != glossary():
        faults.append("nbs/glossary.ipynb differs: run python .ci/terms.py --write")
    return faults


def table() -> str:
    "Each term with where it is explained, and where it is first used."
    lines = []
    for term in read_list()["terms"]:
        page, cell = explained(term)
        use = next(uses(term), None)
        used = f"{use[0]}[{use[1]}]" if use else "-"
        mark = "  " if not faults_of(term) else "! "
        lines.append(f"{mark}{term['term']:32} explained {page}[{cell}]  used {used}")
    return "\n".join(lines)


def show(names: list[str]) -> None:
    "The first uses of the named terms, in context."
    for term in read_list()["terms"]:
        if term["term"] in names:
            print(f"== {term['term']} ({term['page']})")
            for _, (page, at, place, text) in zip(range(12), uses(term), strict=False):
                print(f"  {page}[{at}] ...{text[max(0, place - 90) : place + 110]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("terms", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.write:
        GLOSSARY.write_text(glossary(), encoding="utf-8")
    elif args.check:
        faults = check()
        print("\n".join(faults))
        sys.exit(bool(faults))
    elif args.terms:
        show(args.terms)
    else:
        print(table())


if __name__ == "__main__":
    main()
