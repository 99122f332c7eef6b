"""The book's diagrams, nbs/pictures/NAME.svg: python .ci/diagrams.py [NAME ...]

A small vocabulary (boxes, cells, arrows, brackets), then one function a diagram. The numbers
in a diagram are computed here. Each file carries its colours for light and dark: by itself it
follows the reader's system, inside a page of the site the page's theme."""

import json
import math
import sys
from html import escape
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import house  # noqa: E402

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "nbs/pictures"
WIDTH = 440  # units; the text is at least 12.5 of them, so 10 pixels on a telephone
SHOWN = 560  # pixels, where there is room

# role -> (light, dark), as in nbs/theme-light.scss and nbs/theme-dark.scss
COLOURS = {
    "paper": ("#fbfaf7", "#14191d"),
    "line": ("#c3beb0", "#4a5761"),
    "ink": ("#1d2730", "#e6e3da"),
    "soft": ("#55616b", "#a5afb6"),
    "teal": ("#0b6770", "#63c7cd"),
    "warm": ("#96450f", "#e8a571"),
    "blue": ("#1a5a9c", "#86b8ea"),
    "green": ("#43660f", "#aacb7a"),
    "violet": ("#6a3d9a", "#c9aaec"),
}
HUES = ("teal", "warm", "blue", "green", "violet", "soft", "line", "ink")

RULES = """
.lm336-pic{max-width:100%;height:auto;--hue:var(--pic-soft)}
.lm336-pic{font-family:system-ui,"Segoe UI","Noto Sans","DejaVu Sans",Arial,sans-serif}
.lm336-pic text{fill:var(--pic-ink);font-size:14px}
.lm336-pic .small{font-size:12.5px}
.lm336-pic .number{font-size:13px;font-variant-numeric:tabular-nums}
.lm336-pic .code{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.lm336-pic .code{font-size:12.5px}
.lm336-pic .strong{font-weight:600}
.lm336-pic .quiet{fill:var(--pic-soft)}
.lm336-pic .said{fill:var(--hue)}
.lm336-pic .paper{fill:var(--pic-paper)}
.lm336-pic .box{fill:var(--hue);fill-opacity:var(--pic-tint)}
.lm336-pic .box{stroke:var(--hue);stroke-width:1.3}
.lm336-pic .full{fill:var(--hue)}
.lm336-pic .empty{fill:none;stroke:var(--hue);stroke-width:1.3;stroke-dasharray:4 3}
.lm336-pic .stroke{fill:none;stroke:var(--hue);stroke-width:1.6}
.lm336-pic .stroke{stroke-linecap:round;stroke-linejoin:round}
.lm336-pic .road{stroke-width:7;stroke-linecap:butt}
.lm336-pic .thin{stroke-width:1}
"""


def style() -> str:
    "The rules of every diagram; they name nothing outside of `.lm336-pic`."
    light, dark = (
        "".join(f"--pic-{role}:{pair[i]};" for role, pair in COLOURS.items()) + tint
        for i, tint in enumerate(("--pic-tint:.13;", "--pic-tint:.22;"))
    )
    hues = "".join(f".lm336-pic .{hue}{{--hue:var(--pic-{hue})}}\n" for hue in HUES)
    return (
        f".lm336-pic{{{light}}}\n"
        f"@media (prefers-color-scheme:dark){{.lm336-pic{{{dark}}}}}\n"
        f"body.quarto-light .lm336-pic{{{light}}}\n"
        f"body.quarto-dark .lm336-pic{{{dark}}}" + RULES + hues
    )


def shown(number: float) -> str:
    "A coordinate, without needless digits."
    return f"{round(number, 1):g}"


class Picture:
    "An SVG that grows; y runs down. Every method returns nothing and draws."

    def __init__(self, name: str, height: float, title: str, description: str):
        self.name, self.height = name, height
        self.title, self.description = title, description
        self.parts: list[str] = []

    def add(self, tag: str, content: str | None = None, **attributes: object) -> None:
        "One element; `kind` becomes its classes."
        attributes = {
            ("class" if name == "kind" else name): v for name, v in attributes.items()
        }
        written = "".join(
            f' {name.replace("_", "-")}="'
            f'{shown(value) if isinstance(value, float | int) else escape(str(value))}"'
            for name, value in attributes.items()
            if value != ""
        )
        end = "/>" if content is None else f">{escape(content, quote=False)}</{tag}>"
        self.parts.append(f"<{tag}{written}{end}")

    def text(self, x, y, words: str, kind: str = "", anchor: str = "middle") -> None:
        "Words whose middle, start or end is at x, standing on y."
        self.add("text", words, x=x, y=y, text_anchor=anchor, kind=kind)

    def left(self, x, y, words: str, kind: str = "") -> None:
        self.text(x, y, words, kind, "start")

    def right(self, x, y, words: str, kind: str = "") -> None:
        self.text(x, y, words, kind, "end")

    def box(
        self, x, y, width, height, words="", hue="soft", kind="box", say="", round=5
    ) -> None:
        "A box and the words in its middle, a line for each."
        self.add("rect", x=x, y=y, width=width, height=height, rx=round, kind=f"{kind} {hue}")
        lines = words.split("\n") if words else []
        for i, line in enumerate(lines):
            down = y + height / 2 + 5 + 17 * (i - (len(lines) - 1) / 2)
            self.text(x + width / 2, down, line, say if i == 0 else "small quiet")

    def cell(
        self, x, y, width, height, words="", hue="soft", weight: float | None = None
    ) -> None:
        "A cell of a matrix; with a weight of 0 to 1 it is shaded by that."
        strength = "" if weight is None else f"fill-opacity:{0.06 + 0.6 * weight:.2f}"
        self.add(
            "rect",
            x=x,
            y=y,
            width=width,
            height=height,
            rx=2,
            kind=f"box {hue}",
            style=strength,
        )
        if words:
            self.text(x + width / 2, y + height / 2 + 4.5, words, "number")

    def line(self, *points: tuple[float, float], hue="soft", kind="") -> None:
        path = " ".join(f"{shown(x)},{shown(y)}" for x, y in points)
        self.add("polyline", points=path, kind=f"stroke {hue} {kind}".strip())

    def arrow(self, *points: tuple[float, float], hue="soft", kind="") -> None:
        "A line through the points with a head at the last."
        (x0, y0), (x, y) = points[-2:]
        length = math.hypot(x - x0, y - y0)
        dx, dy = (x - x0) / length, (y - y0) / length
        back = (x - 6 * dx, y - 6 * dy)
        self.line(*points[:-1], back, hue=hue, kind=kind)
        corners = (x, y), (back[0] - 2 * dx - 4 * dy, back[1] - 2 * dy + 4 * dx)
        corners += ((back[0] - 2 * dx + 4 * dy, back[1] - 2 * dy - 4 * dx),)
        path = " ".join(f"{shown(x)},{shown(y)}" for x, y in corners)
        self.add("polygon", points=path, kind=f"full {hue}")

    def arc(self, x, y, end, reach, hue="soft", dashes="") -> None:
        "Half an ellipse from (x, y) to (x, end), reach wide, with a head at its end."
        side = math.copysign(1, reach)
        turn = int((end > y) == (reach > 0))
        size = f"{shown(abs(reach))} {shown(abs(end - y) / 2)}"
        path = f"M{shown(x)} {shown(y)}A{size} 0 0 {turn} {shown(x)} {shown(end)}"
        self.add("path", d=path, kind=f"stroke thin {hue}", stroke_dasharray=dashes)
        corners = ((x, end), (x + 6 * side, end - 3), (x + 6 * side, end + 3))
        points = " ".join(f"{shown(x)},{shown(y)}" for x, y in corners)
        self.add("polygon", points=points, kind=f"full {hue}")

    def bracket(self, x, end, y, words="", hue="soft", up=False, say="small said") -> None:
        "A bracket from x to end, open towards what it holds; its words beyond."
        depth = -7 if up else 7
        self.line((x, y), (x, y + depth), (end, y + depth), (end, y), hue=hue)
        if words:
            at = y - 12 if up else y + 22
            self.text((x + end) / 2, at, words, f"{say} {hue}")

    def plus(self, x, y, hue="teal") -> None:
        "A circle in which two streams are added."
        self.add("circle", cx=x, cy=y, r=12, kind="paper")
        self.add("circle", cx=x, cy=y, r=12, kind=f"box {hue}")
        self.line((x - 6, y), (x + 6, y), hue=hue)
        self.line((x, y - 6), (x, y + 6), hue=hue)

    def __str__(self) -> str:
        name, size = self.name, f"0 0 {WIDTH} {shown(self.height)}"
        tall = shown(self.height * SHOWN / WIDTH)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="lm336-pic" viewBox="{size}" '
            f'width="{SHOWN}" height="{tall}" role="img" '
            f'aria-labelledby="{name}-title {name}-desc">'
        )
        paper = (
            f'<rect class="paper sheet" width="{WIDTH}" height="{shown(self.height)}" rx="6"/>'
        )
        lines = (
            head,
            f'<title id="{name}-title">{escape(self.title, quote=False)}</title>',
            f'<desc id="{name}-desc">{escape(self.description, quote=False)}</desc>',
            f"<style>\n{style()}</style>",
            paper,
            *self.parts,
            "</svg>\n",
        )
        return "\n".join(lines)


# The diagrams, in the order of the book


def tour() -> Picture:
    p = Picture(
        "tour",
        742,
        "From a text to a story",
        "A column of steps. The text Once upon a time is cut into four tokens; each token "
        "becomes a vector; blocks of attention and feed-forward layers let the vectors "
        "exchange what they know; the last vector becomes a probability for every token of "
        "the vocabulary: there 71 %, a 26 %, an 3 %. One is drawn, appended to the text, "
        "and the steps start again, until a story is told.",
    )
    tokens = [("Once", 2614), ("␣upon", 3782), ("␣a", 256), ("␣time", 624)]
    left, wide = 124, 63
    middles = [left + wide * i + wide / 2 - 2 for i in range(4)]

    p.left(14, 42, "text", "strong")
    p.box(left, 20, 4 * wide - 4, 34, "Once upon a time", "ink")
    p.arrow((left + 130, 54), (left + 130, 82))
    p.left(left + 142, 73, "cut into known pieces", "small quiet")

    p.left(14, 104, "tokens", "strong")
    p.left(14, 122, "and their ids", "small quiet")
    for i, (token, number) in enumerate(tokens):
        p.box(left + wide * i, 84, wide - 4, 44, f"{token}\n{number}", "teal")
        p.arrow((middles[i], 128), (middles[i], 156))

    p.left(14, 188, "vectors", "strong")
    p.left(14, 206, "a row of numbers", "small quiet")
    p.left(14, 222, "for each token", "small quiet")
    for i, x in enumerate(middles):
        for j in range(5):
            weight = 0.5 + 0.5 * math.sin(2.3 * i * i + 1.9 * j + 1)
            p.cell(x - 14, 158 + 16 * j, 28, 16, hue="blue", weight=weight)

    p.left(14, 292, "attention", "strong")
    p.left(14, 310, "each looks at", "small quiet")
    p.left(14, 326, "the earlier ones", "small quiet")
    p.box(left, 256, 4 * wide - 4, 84, hue="warm")
    for i, x in enumerate(middles):
        p.line((x, 240), (x, 268), hue="blue")
        p.arrow((x, 268), (x, 354), hue="blue")
        for earlier in middles[:i]:
            p.line((earlier, 276), (x, 318), hue="warm", kind="thin")
    p.left(14, 376, "feed-forward", "strong")
    p.left(14, 394, "each by itself", "small quiet")
    for x in middles:
        p.box(x - 24, 356, 48, 34, hue="green")
        p.line((x - 12, 380), (x, 380), (x + 12, 366), hue="green")
        p.line((x, 390), (x, 410), hue="blue")
    right = left + 4 * wide
    p.line((right + 2, 256), (right + 9, 256), (right + 9, 390), (right + 2, 390), hue="ink")
    p.left(right + 14, 328, "× 4", "strong")

    p.arrow((middles[3], 410), (middles[3], 438), hue="blue")
    p.right(
        middles[3] - 10, 428, "the last vector is compared with every token", "small quiet"
    )

    p.left(14, 468, "probabilities", "strong")
    p.left(14, 486, "for what", "small quiet")
    p.left(14, 502, "comes next", "small quiet")
    for i, (token, share) in enumerate((("␣there", 71), ("␣a", 26), ("␣an", 3))):
        y = 442 + 26 * i
        p.right(left + 56, y + 16, token, "small")
        p.box(left + 64, y + 2, 170 * share / 71, 19, hue="violet", round=2)
        p.left(left + 72 + 170 * share / 71, y + 16, f"{share} %", "number")
    p.text(left + 64, 534, "⋮", "quiet")
    p.arrow((left + 130, 526), (left + 130, 552), hue="violet")
    p.left(left + 142, 546, "one is drawn at random", "small quiet")

    p.left(14, 578, "text", "strong")
    p.left(14, 596, "one token longer", "small quiet")
    p.box(left, 556, 4 * wide - 4, 40, "Once upon a time there", "ink")
    p.line((left + 4 * wide - 4, 576), (432, 576), (432, 37), hue="teal")
    p.arrow((432, 37), (left + 4 * wide, 37), hue="teal")
    p.right(424, 210, "again", "small said teal")
    p.arrow((left + 130, 596), (left + 130, 634), hue="ink")
    p.left(left + 142, 620, "again and again", "small quiet")
    p.left(14, 676, "a story", "strong")
    p.box(left, 638, 4 * wide - 4, 84, hue="ink", kind="empty")
    story = (
        "Once upon a time there was",
        "a spirited boy named Noah.",
        "He was nine years old and …",
    )
    for i, line in enumerate(story):
        p.left(left + 14, 664 + 22 * i, line)
    return p


CORPUS = {"low": 5, "lower": 2, "newest": 6, "widest": 3}


def merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    "The symbols with every occurrence of the pair made one, from the left."
    out: list[str] = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def learned(words: dict[str, int], number: int) -> list[tuple[tuple[str, str], int]]:
    "The most frequent pair and its count, `number` times; of equals, the greater pair."
    split = {word: list(word) for word in words}
    merges = []
    for _ in range(number):
        counts: dict[tuple[str, str], int] = {}
        for word, symbols in split.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + words[word]
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append((best, counts[best]))
        split = {word: merged(symbols, best) for word, symbols in split.items()}
    return merges


def bpe_merges() -> Picture:
    word, wide, left = "newest", 42, 14
    symbols, steps, others = list(word), [], []
    for number, (pair, count) in enumerate(learned(CORPUS, 7), 1):
        after = merged(symbols, pair)
        if after == symbols:
            others.append(f"{number} ({' + '.join(pair)})")
            continue
        steps.append((number, pair, count, symbols, after))
        symbols = after
    p = Picture(
        "bpe-merges",
        112 + 66 * len(steps),
        "A word, merged step by step",
        f"The word {word} begins as six letters. "
        + " ".join(
            f"Merge {number} joins {a} and {b}, a pair that occurs {count} times."
            for number, (a, b), count, _, _ in steps
        )
        + " At the end the word is one token.",
    )

    def row(symbols: list[str], y: float, new: str) -> list[tuple[float, float]]:
        "The symbols as boxes as wide as their letters; gives each its place."
        at, places = left, []
        for symbol in symbols:
            width = wide * len(symbol)
            hue = "warm" if symbol == new else "teal"
            p.box(at + 2, y, width - 4, 32, symbol, hue)
            places.append((at, at + width))
            at += width
        return places

    told = ", ".join(f"{word} × {count}" for word, count in CORPUS.items())
    p.left(left, 26, "the text:", "small quiet")
    p.left(left + 62, 26, told, "small")
    y = 46
    places = row(list(word), y, "")
    p.left(left + 6 * wide + 12, y + 21, "six letters", "small quiet")
    for number, (a, b), count, before, after in steps:
        i = next(i for i in range(len(before)) if tuple(before[i : i + 2]) == (a, b))
        start, end = places[i][0], places[i + 1][1]
        p.bracket(start + 8, end - 8, y + 36, hue="warm")
        p.arrow(((start + end) / 2, y + 43), ((start + end) / 2, y + 64), hue="warm")
        y += 66
        places = row(after, y, a + b)
        p.left(left + 6 * wide + 12, y + 13, f"merge {number}: {a} + {b}", "small strong")
        p.left(left + 6 * wide + 12, y + 30, f"a pair seen {count} times", "small quiet")
    p.left(left, y + 56, f"merges {' and '.join(others)} change other words", "small quiet")
    return p


SIX = ["Once", "upon", "a", "time", "there", "was"]


def windows() -> Picture:
    p = Picture(
        "windows",
        524,
        "A window of inputs and its targets",
        "A stream of words: Once upon a time there was a. The inputs are six neighbours, "
        "Once to was; the targets are the same window one step further on, upon to a. "
        "Below, a staircase: from Once predict upon, from Once upon predict a, and so on: "
        "six predictions from one window.",
    )
    words, left, wide = [*SIX, "a"], 24, 56
    x = [left + wide * i for i in range(8)]

    p.left(left, 22, "the stream of tokens", "small quiet")
    for i, word in enumerate(words):
        p.box(x[i] + 2, 60, wide - 4, 32, word, "teal")
    p.text(12, 80, "…")
    p.text(428, 80, "…")
    p.bracket(x[1] + 2, x[7] - 2, 55, "the targets: one step further on", "warm", up=True)
    p.bracket(x[0] + 2, x[6] - 2, 97, "the inputs: context_length = 6 tokens", "blue")

    p.left(left, 158, "one above the other: what is given, and what comes next", "small quiet")
    for i in range(6):
        p.box(x[i] + 2, 168, wide - 4, 32, words[i], "blue")
        p.arrow((x[i] + 28, 200), (x[i] + 28, 226))
        p.box(x[i] + 2, 228, wide - 4, 32, words[i + 1], "warm")
    p.left(x[6] + 4, 188, "inputs", "small said blue")
    p.left(x[6] + 4, 248, "targets", "small said warm")

    p.left(left, 302, "six predictions from one window", "small quiet")
    for row in range(6):
        y = 312 + 33 * row
        for i in range(row + 1):
            p.box(x[i] + 2, y, wide - 4, 27, words[i], "blue", say="small")
        p.box(x[row + 1] + 2, y, wide - 4, 27, words[row + 1], "warm", "empty", say="small")
    return p


def attention_one_query() -> Picture:
    words = ["Tom", "fell", ".", "Poor", "Tom", "cried"]
    keys = [(1, 0), (0, 1), (0, 0), (0, 0), (1, 0), (0, 1)]  # is a name, is an event
    values = [(1, 1), (0, -1), (0, 0), (0, 0), (1, 1), (0, 1)]  # is a name, which one
    asks, query = 3, (4, 0)  # looks for a name, for an event
    scores = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
    scaled = [score / math.sqrt(2) for score in scores]
    powers = [math.exp(score) if j <= asks else 0.0 for j, score in enumerate(scaled)]
    weights = [power / sum(powers) for power in powers]
    parts = [[w * v for v in value] for w, value in zip(weights, values, strict=True)]
    out = [sum(part[i] for part in parts) for i in (0, 1)]

    def said(number: float, digits: int = 2) -> str:
        return "0" if not number else f"{number:.{digits}f}".replace("-", "−")

    p = Picture(
        "attention-one-query",
        700,
        "Attention for one word",
        "The word Poor asks in Tom fell. Poor Tom cried. Its query looks for a name. Query "
        f"times key gives the scores {', '.join(said(score, 0) for score in scores)}; they "
        "are divided by the root of two, the scores of the later words become minus "
        f"infinity, and softmax makes the weights {', '.join(map(said, weights))}. Each "
        f"value times its weight, added up, is the output ({said(out[0])}, {said(out[1])}): "
        "a name, that of the first Tom.",
    )
    left, wide = 84, 59
    x = [left + wide * j for j in range(6)]

    def row(y, numbers, hue, digits=1, label="", note="", strength=None) -> None:
        p.left(8, y + 14, label, "small strong")
        p.left(8, y + 30, note, "small quiet")
        for j, number in enumerate(numbers):
            written = number if isinstance(number, str) else said(number, digits)
            shade = "line" if j > asks and strength else hue
            p.cell(x[j] + 3, y, wide - 6, 22, written, shade)

    def meaning(y, name, hue, *features) -> None:
        "What a vector is called, and what its two numbers stand for."
        p.left(8, y - 8, name, f"small said {hue} strong")
        for i, feature in enumerate(features):
            p.left(8, y + 14.5 + 20 * i, feature, "small quiet")

    for j, word in enumerate(words):
        hue, say = ("ink", "strong") if j == asks else ("line", "")
        p.box(x[j] + 3, 12, wide - 6, 28, word, hue, say=say)
    p.arrow((x[asks] + wide / 2, 40), (x[asks] + wide / 2, 56), hue="blue")
    meaning(58, "query q", "blue", "seeks name", "seeks event")
    p.cell(x[asks] + 3, 58, wide - 6, 20, said(query[0], 0), "blue")
    p.cell(x[asks] + 3, 78, wide - 6, 20, said(query[1], 0), "blue")
    for j in range(6):
        p.arrow((x[asks] + wide / 2, 98), (x[j] + wide / 2, 124), hue="blue", kind="thin")
        p.cell(x[j] + 3, 126, wide - 6, 20, said(keys[j][0], 0), "warm")
        p.cell(x[j] + 3, 146, wide - 6, 20, said(keys[j][1], 0), "warm")
    meaning(126, "keys k", "warm", "a name?", "an event?")

    row(190, scores, "violet", 0, "score", "q · k")
    (q0, q1), (k0, k1) = query, keys[0]
    worked = f"{q0:g} × {k0:g} + {q1:g} × {k1:g} = {scores[0]:g}"
    p.left(x[0] + 3, 230, worked, "small quiet")
    row(246, scaled, "violet", 2, "scaled", "÷ √d = √2")
    hidden = [said(s) if j <= asks else "−∞" for j, s in enumerate(scaled)]
    row(296, hidden, "violet", 2, "masked", "later: −∞", True)

    p.left(8, 378, "weight", "small strong")
    p.left(8, 394, "softmax", "small quiet")
    p.line((x[0], 394), (x[5] + wide, 394), hue="line")
    for j, weight in enumerate(weights):
        tall = 52 * weight / max(weights)
        if j <= asks:
            p.box(x[j] + 14, 394 - tall, wide - 28, tall, hue="violet", kind="full", round=1)
        p.text(x[j] + wide / 2, 410, said(weight), "number")
    p.text((x[0] + x[3] + wide) / 2, 430, "together 1", "small quiet")

    meaning(444, "values v", "green", "a name?", "which one?")
    p.left(8, 524, "weighted", "small strong")
    p.left(8, 540, "weight × v", "small quiet")
    for j in range(6):
        faint = "line" if j > asks else "green"
        for i in (0, 1):
            p.cell(x[j] + 3, 444 + 20 * i, wide - 6, 20, said(values[j][i], 0), faint)
            written = said(parts[j][i]) if j <= asks else "0"
            p.cell(x[j] + 3, 508 + 20 * i, wide - 6, 20, written, faint)
        p.arrow((x[j] + wide / 2, 486), (x[j] + wide / 2, 506), hue=faint, kind="thin")
    p.bracket(x[0] + 3, x[3] + wide - 3, 554, hue="green")
    p.text((x[0] + x[3] + wide) / 2, 578, "added up", "small quiet")
    middle = (x[0] + x[3] + wide) / 2
    p.arrow((middle, 584), (middle, 606), hue="teal")
    p.left(8, 628, "output", "small said teal strong")
    p.cell(middle - 32, 608, 64, 22, said(out[0]), "teal")
    p.cell(middle - 32, 630, 64, 22, said(out[1]), "teal")
    p.left(middle + 46, 628, "what “Poor” now knows:", "small")
    p.left(middle + 46, 645, "a name came before, Tom’s", "small")
    p.text(WIDTH / 2, 682, "softmax(q kᵀ / √d) v", "strong")
    return p


def attention_heads() -> Picture:
    p = Picture(
        "attention-heads",
        656,
        "Many heads: split, attend, rejoin",
        "The input x of shape (batch, seq, d_model) is multiplied by three matrices and "
        "becomes q, k and v. Each is cut along its features into four slices, one for each "
        "head. Every head attends with its own slices; their outputs, each d_head wide, are "
        "laid side by side, d_model wide again, and the output projection mixes them.",
    )
    hues = ("blue", "warm", "green", "violet")
    middle = WIDTH / 2

    p.box(middle - 75, 14, 150, 44, "x\n(batch, seq, d_model)", "ink", say="strong")
    tops = {"q": 12, "k": 152, "v": 292}
    for name, x in tops.items():
        p.arrow((middle, 58), (x + 68, 92))
        p.box(x + 8, 94, 120, 26, f"{name}_proj", "ink", say="code")
        p.arrow((x + 68, 120), (x + 68, 142))
        for i, hue in enumerate(hues):
            p.add("rect", x=x + 34 * i, y=144, width=34, height=48, kind=f"box {hue}")
        p.left(x, 210, name, "strong")
        p.left(x + 14, 210, "d_model wide", "small quiet")

    p.text(middle, 242, "cut into heads: (batch, num_heads, seq, d_head)", "small quiet")
    heads = [12 + 106 * i for i in range(4)]
    for i, (x, hue) in enumerate(zip(heads, hues, strict=True)):
        p.arrow((x + 49, 252), (x + 49, 276), hue=hue)
        p.box(x, 278, 98, 132, hue=hue)
        p.text(x + 49, 296, f"head {i + 1}", f"said strong {hue}")
        for r in range(5):
            angles = [1 + 3 * i + 1.7 * c * (i + 1) + r * i for c in range(r + 1)]
            powers = [math.exp(2.2 * math.sin(angle)) for angle in angles]
            for c, power in enumerate(powers):
                weight = power / sum(powers)
                p.cell(x + 16 + 13 * c, 306 + 13 * r, 13, 13, hue=hue, weight=weight)
        p.text(x + 49, 388, "weights × v", "small")
        p.text(x + 49, 403, "(seq, d_head)", "small quiet")
        p.arrow((x + 49, 410), (middle - 68 + 34 * i + 17, 462), hue=hue)
        p.add("rect", x=middle - 68 + 34 * i, y=464, width=34, height=48, kind=f"box {hue}")
    p.left(middle + 82, 484, "side by side:", "small quiet")
    p.left(middle + 82, 500, "d_model wide again", "small quiet")
    p.arrow((middle, 512), (middle, 538))
    p.box(middle - 75, 540, 150, 28, "output_proj", "ink", say="code")
    p.left(middle + 82, 558, "mixes the heads", "small quiet")
    p.arrow((middle, 568), (middle, 594))
    p.box(middle - 75, 596, 150, 44, "output\n(batch, seq, d_model)", "ink", say="strong")
    return p


def block() -> Picture:
    p = Picture(
        "block",
        520,
        "The block and its residual stream",
        "A straight road runs from x at the top to the output at the bottom: the residual "
        "stream. Two side branches read from it and add to it: first RMSNorm and attention, "
        "then RMSNorm and SwiGLU. Nothing stands on the road itself.",
    )
    road, side, wide = 92, 196, 220
    p.box(road - 78, 12, 156, 44, "x\n(batch, seq, d_model)", "teal", say="strong")
    p.line((road, 56), (road, 452), hue="teal", kind="road")
    branches = (
        (84, "ln1", "attn", "attention", "what do the words before say?", "warm"),
        (276, "ln2", "ffn", "SwiGLU", "each position by itself", "green"),
    )
    for y, norm, code, name, note, hue in branches:
        p.arrow((road, y), (side + wide / 2, y), (side + wide / 2, y + 18))
        p.box(side, y + 20, wide, 30, "RMSNorm", "soft")
        p.right(side + wide - 10, y + 40, norm, "code quiet")
        p.arrow((side + wide / 2, y + 50), (side + wide / 2, y + 68))
        p.box(side, y + 70, wide, 50, f"{name}\n{note}", hue, say="strong")
        p.right(side + wide - 10, y + 88, code, "code quiet")
        p.line((side + wide / 2, y + 120), (side + wide / 2, y + 144), hue=hue)
        p.arrow((side + wide / 2, y + 144), (road + 13, y + 144), hue=hue)
        p.plus(road, y + 144)
        p.left(side, y + 166, f"x = x + {code}({norm}(x))", "code")
    p.right(road - 14, 150, "the", "small said teal")
    p.right(road - 14, 167, "residual", "small said teal")
    p.right(road - 14, 184, "stream", "small said teal")
    p.box(
        road - 78,
        452,
        156,
        44,
        "to the next block\n(batch, seq, d_model)",
        "teal",
        say="strong",
    )
    p.left(side, 470, "The branches only add:", "small quiet")
    p.left(side, 487, "nothing blocks the road.", "small quiet")
    return p


def model() -> Picture:
    p = Picture(
        "model",
        604,
        "The model, from ids to logits",
        "A column of parts with the shapes between them: ids (batch, seq); token "
        "embeddings; vectors (batch, seq, d_model); blocks one above the other; the same "
        "shape; the final norm; the head; logits (batch, seq, vocab_size): for each "
        "position a score for every token of the vocabulary.",
    )
    left, wide = 14, 220
    middle, side = left + wide / 2, left + wide + 18
    tokens = [("Once", 2614), ("upon", 3782), ("a", 256), ("time", 624)]

    def shape(y: float, words: str, example: str) -> None:
        p.left(side, y, words, "code")
        p.left(side, y + 17, example, "code quiet")

    for i, (token, number) in enumerate(tokens):
        p.text(left + 55 * i + 27.5, 26, token, "small quiet")
        p.cell(left + 55 * i + 2, 34, 51, 26, str(number), "teal")
    shape(40, "(batch, seq)", "in the demo (1, 4)")
    p.arrow((middle, 60), (middle, 88))
    p.box(
        left,
        90,
        wide,
        46,
        "token_embeddings\na row of the table for each id",
        "blue",
        say="code",
    )
    p.arrow((middle, 136), (middle, 170), hue="blue")
    shape(146, "(batch, seq, d_model)", "(1, 4, 160)")
    for i in (3, 2, 1):
        p.box(left + 7 * i, 172 + 7 * i, wide - 7, 84, hue="warm", kind="paper")
        p.box(left + 7 * i, 172 + 7 * i, wide - 7, 84, hue="warm")
    p.box(left, 172, wide - 7, 84, hue="warm", kind="paper")
    p.box(left, 172, wide - 7, 84, hue="warm")
    p.text(left + (wide - 7) / 2, 194, "layers", "code")
    p.box(left + 10, 204, 92, 40, "norm,\nattention", "warm", say="small quiet")
    p.box(left + 111, 204, 92, 40, "norm,\nSwiGLU", "green", say="small quiet")
    p.left(side + 16, 214, "block after block,", "small quiet")
    p.left(side + 16, 231, "4 in the demo", "small quiet")
    p.arrow((middle, 278), (middle, 314), hue="blue")
    shape(294, "(batch, seq, d_model)", "(1, 4, 160)")
    p.box(left, 316, wide, 46, "ln_final\none more norm", "soft", say="code")
    p.arrow((middle, 362), (middle, 396), hue="blue")
    shape(374, "(batch, seq, d_model)", "(1, 4, 160)")
    p.box(left, 398, wide, 46, "lm_head\nhow well does each token fit?", "violet", say="code")
    p.arrow((middle, 444), (middle, 478), hue="violet")
    shape(470, "(batch, seq, vocab_size)", "(1, 4, 4096)")
    p.line((left, 568), (left + wide, 568), hue="line")
    for position in range(4):
        hue = "violet" if position == 3 else "soft"
        for j in range(9):
            wave = math.sin(1.3 * position * j + 2.1 * j + 1.7 * position * position)
            tall = 6 + 68 * (0.5 + 0.5 * wave) ** 2
            x = left + 55 * position + 3 + 5.4 * j
            p.box(x, 568 - tall, 4, tall, hue=hue, kind="full", round=0)
        middle_of = left + 55 * position + 26
        p.text(
            middle_of, 586, tokens[position][0], "small" if position == 3 else "small quiet"
        )
    p.left(side, 524, "logits: for each position", "small")
    p.left(side, 541, "a score for every token", "small")
    p.left(side, 574, "for the next word, only", "small said violet")
    p.left(side, 591, "the last one is needed", "small said violet")
    return p


def loop() -> Picture:
    "The model of data/demo in one line, for the first page."
    config = json.loads((ROOT / "data/demo/config.json").read_text(encoding="utf-8"))
    vocab, blocks = f"{config['vocab_size']:,}", config["num_layers"]
    p = Picture(
        "loop",
        118,
        "The model in one line",
        f"Five boxes in a row: text; ids, of {vocab}; vectors of {config['d_model']} numbers; "
        f"{blocks} blocks of attention and SwiGLU; {vocab} scores. From the scores an arrow "
        "leads back to the text: one token is drawn, and all begins again.",
    )
    stages = [
        ("text\nOnce upon", 78, "soft"),
        (f"ids\nof {vocab}", 68, "teal"),
        (f"vectors\nof {config['d_model']}", 66, "blue"),
        (f"{blocks} blocks\nattention", 82, "warm"),
        (f"scores\n{vocab}", 66, "violet"),
    ]
    x, gap, middles = 4.0, 18, []
    for i, (words, wide, hue) in enumerate(stages):
        if i:
            p.arrow((x - gap + 2, 34), (x - 2, 34))
        p.box(x, 8, wide, 52, words, hue, say="strong")
        middles.append(x + wide / 2)
        x += wide + gap
    first, last = middles[0], middles[-1]
    p.arrow((last, 60), (last, 88), (first, 88), (first, 62), hue="warm")
    again = "one token is drawn, and all begins again"
    p.text((first + last) / 2, 108, again, "small said warm")
    return p


def adamw_step() -> Picture:
    beta1, beta2, rate, decay, t = 0.9, 0.999, 0.1, 0.05, 2
    gradients, weight = (0.4, 0.2), 1.0
    m = v = 0.0
    for g in gradients:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    step = rate * m_hat / math.sqrt(v_hat)
    kept = weight * (1 - rate * decay)
    p = Picture(
        "adamw-step",
        546,
        "One step of AdamW for one weight",
        "The gradient feeds two averages, m of the gradient and v of its square. Both are "
        "divided by what "
        "they lack at the beginning, and m over the root of v, times the learning rate, is "
        "the "
        f"step. The weight's own path is separate: it decays first, from {weight:g} to "
        f"{kept:.3f}, and then "
        f"the step of {step:.3f} is subtracted.",
    )
    road, wide = 372, 138
    m_x, v_x = 10, 158

    p.box(
        m_x + 78,
        12,
        132,
        44,
        f"gradient g\n{gradients[-1]:g}, after {gradients[0]:g}",
        "blue",
        say="strong",
    )
    p.arrow((120, 56), (m_x + wide / 2, 92), hue="blue")
    p.arrow((186, 56), (v_x + wide / 2, 92), hue="blue")
    p.box(m_x, 94, wide, 84, hue="warm")
    p.text(m_x + 69, 114, "m: average of g", "small strong")
    p.text(m_x + 69, 136, "0.9 m + 0.1 g", "small")
    p.text(m_x + 69, 166, f"{m:.3f}", "number")
    p.box(v_x, 94, wide, 84, hue="violet")
    p.text(v_x + 69, 114, "v: average of g²", "small strong")
    p.text(v_x + 69, 136, "0.999 v + 0.001 g²", "small")
    p.text(v_x + 69, 166, f"{v:.6f}", "number")
    p.arrow((m_x + 69, 178), (m_x + 69, 208), hue="warm")
    p.arrow((v_x + 69, 178), (v_x + 69, 208), hue="violet")
    p.box(m_x, 210, wide, 74, hue="warm")
    p.text(m_x + 69, 230, "÷ (1 − 0.9ᵗ)", "small")
    p.text(m_x + 69, 268, f"m̂ = {m_hat:.3f}", "number")
    p.box(v_x, 210, wide, 74, hue="violet")
    p.text(v_x + 69, 230, "÷ (1 − 0.999ᵗ)", "small")
    p.text(v_x + 69, 268, f"v̂ = {v_hat:.3f}", "number")
    p.arrow((m_x + 69, 284), (120, 322), hue="warm")
    p.arrow((v_x + 69, 284), (186, 322), hue="violet")
    p.box(m_x + 42, 324, 204, 70, hue="teal")
    p.text(m_x + 144, 344, "step = lr · m̂ / (√v̂ + ε)", "strong small")
    p.text(
        m_x + 144,
        372,
        f"{rate:g} × {m_hat:.3f} / {math.sqrt(v_hat):.3f} = {step:.3f}",
        "number",
    )
    p.line((m_x + 144, 394), (m_x + 144, 432), hue="teal")
    p.arrow((m_x + 144, 432), (road - 13, 432), hue="teal")
    p.text(m_x + 230, 424, "subtracted", "small quiet")

    p.box(road - 58, 12, 116, 44, f"weight θ\n{weight:g}", "ink", say="strong")
    p.line((road, 56), (road, 484), hue="ink", kind="road")
    p.box(road - 58, 150, 116, 112, hue="green", kind="paper")
    p.box(road - 58, 150, 116, 112, hue="green")
    p.text(road, 172, "weight decay", "small strong")
    p.text(road, 194, "× (1 − lr · λ)", "small")
    p.text(road, 216, f"{kept:.3f}", "number")
    p.text(road, 238, "no gradient", "small quiet")
    p.text(road, 253, "comes in here", "small quiet")
    p.add("circle", cx=road, cy=432, r=12, kind="paper")
    p.add("circle", cx=road, cy=432, r=12, kind="box teal")
    p.line((road - 6, 432), (road + 6, 432), hue="teal")
    p.box(road - 58, 484, 116, 48, f"new weight\n{kept - step:.3f}", "ink", say="strong")
    p.left(m_x, 490, f"Here t = {t}, lr = {rate:g}, λ = {decay:g}:", "small quiet")
    p.left(m_x, 507, "larger than in practice, so that", "small quiet")
    p.left(m_x, 524, "you see every number move.", "small quiet")
    return p


def t4_memory() -> Picture:
    from lm336.accounting import training_memory
    from lm336.configuration import load_preset

    whole, scale = 15, 400 / 15  # GiB, and units for each
    _, model, training = load_preset("tinystories_t4")
    batch = training.batch_size
    hues = ("blue", "green", "violet", "warm", "ink")

    def filled(batch: int) -> dict[str, float]:
        "GiB by name, for a batch of so many windows, with all logits in float32."
        parts = training_memory(model, batch)
        parts["logits"] = 4 * batch * model.context_length * model.vocab_size
        return {name: number / 2**30 for name, number in parts.items()}

    def bar(y: float, parts: dict[str, float], tall: float, scale: float) -> None:
        x = 20.0
        for hue, gib in zip(hues, parts.values(), strict=False):
            p.box(x, y, gib * scale, tall, hue=hue, kind="paper", round=0)
            p.box(x, y, gib * scale, tall, hue=hue, round=0)
            x += gib * scale

    small, large = filled(batch), filled(8 * batch)
    sums = {name: sum(parts.values()) for name, parts in (("small", small), ("large", large))}
    chunked = sums["large"] - large["logits"]
    p = Picture(
        "t4-memory",
        560,
        "What fills a T4's memory",
        f"The reference recipe, batch {batch}, fills {sums['small']:.1f} of 15 GiB: "
        + ", ".join(f"{name} {gib:.2f} GiB" for name, gib in small.items())
        + f". With a batch of {8 * batch} and all logits it would be {sums['large']:.1f} "
        f"GiB, more "
        f"than there is; without the logits, {chunked:.1f} GiB.",
    )
    p.left(20, 28, f"the reference recipe, batch {batch}", "strong")
    p.right(420, 28, f"{sums['small']:.1f} GiB", "strong")
    p.box(20, 40, 400, 40, hue="soft", kind="empty", round=0)
    bar(40, small, 40, scale)
    p.right(412, 65, f"free, of {whole} GiB", "small quiet")
    edge = 20 + sums["small"] * scale
    p.line((20, 80), (20, 106), hue="line")
    p.line((edge, 80), (420, 106), hue="line")
    bar(106, small, 40, 400 / sums["small"])
    p.left(20, 164, "the same, enlarged", "small quiet")

    said = {
        "parameters": ("weights", "4 bytes each"),
        "gradients": ("gradients", "4 bytes each"),
        "optimizer": ("AdamW: m, v", "8 bytes for each weight"),
        "activations": ("activations", "kept for the backward pass"),
        "logits": ("logits", f"{model.vocab_size:,} scores a position"),
    }
    for i, ((name, gib), hue) in enumerate(zip(small.items(), hues, strict=True)):
        y = 178 + 24 * i
        p.box(20, y, 16, 16, hue=hue, round=2)
        p.left(44, y + 13, said[name][0])
        p.left(152, y + 13, said[name][1], "small quiet")
        p.right(420, y + 13, f"{gib:.2f} GiB", "number")

    p.left(20, 344, f"a batch of {8 * batch}", "strong")
    p.right(420, 344, f"{sums['large']:.1f} GiB", "strong said warm")
    p.box(20, 356, 400, 40, hue="soft", kind="empty", round=0)
    bar(356, large, 40, scale)
    p.line((420, 348), (420, 404), hue="warm")
    p.right(420, 416, f"{whole} GiB: it does not fit", "small said warm")
    p.left(20, 460, f"a batch of {8 * batch}, the loss in chunks", "strong")
    p.right(420, 460, f"{chunked:.1f} GiB", "strong")
    p.box(20, 472, 400, 40, hue="soft", kind="empty", round=0)
    del large["logits"]
    bar(472, large, 40, scale)
    p.left(20, 532, "Never all logits at once: only activations grow.", "small quiet")
    return p


def sampling_cuts() -> Picture:
    scores = {
        "little": 3.2,
        "big": 2.6,
        "small": 2.3,
        "young": 1.7,
        "red": 1.2,
        "sad": 0.5,
        "tree": -0.3,
        "of": -1.6,
    }
    total = sum(math.exp(score) for score in scores.values())
    probs = {word: math.exp(score) / total for word, score in scores.items()}
    order = list(probs)
    top_k, top_p, min_p = 3, 0.9, 0.1
    nucleus = next(n for n in range(1, 9) if sum(probs[w] for w in order[:n]) >= top_p)
    floor = min_p * probs[order[0]]
    above = sum(p >= floor for p in probs.values())
    cuts = (
        ("all", "softmax", len(order)),
        (f"top-k = {top_k}", f"the {top_k} likeliest", top_k),
        (f"top-p = {top_p:g}", f"until {top_p:.0%} is reached".replace("%", " %"), nucleus),
        (f"min-p = {min_p:g}", f"at least {min_p:g} × the top", above),
    )
    tall = 264
    p = Picture(
        "sampling-cuts",
        34 + 2 * tall,
        "Three ways to cut a distribution",
        "Four charts of the same eight words. First all probabilities, "
        + ", ".join(f"{word} {share:.1%}" for word, share in probs.items())
        + f". Top-k {top_k} keeps {top_k} words, top-p {top_p:g} keeps {nucleus}, min-p "
        f"{min_p:g} keeps "
        f"{above}; what is kept is divided by its sum.",
    )
    for number, (name, note, kept) in enumerate(cuts):
        x, y = 10 + 216 * (number % 2), 14 + tall * (number // 2)
        hue = ("ink", "blue", "green", "warm")[number]
        p.left(x, y + 12, name, f"strong said {hue}")
        p.left(x, y + 29, note, "small quiet")
        share = sum(probs[word] for word in order[:kept])
        for i, word in enumerate(order):
            top = y + 40 + 25 * i
            p.right(x + 48, top + 15, word, "small" if i < kept else "small quiet")
            before = 205 * probs[word]
            if i >= kept:
                p.box(x + 54, top, max(before, 2), 19, hue="soft", kind="empty", round=1)
                continue
            after = before / share
            p.box(x + 54, top, after, 19, hue=hue, round=1)
            p.box(x + 54, top, before, 19, hue=hue, round=1)
            percent = 100 * probs[word] / share
            words = f"{percent:.0f} %" if percent >= 0.5 else "below 1 %"
            p.left(x + 60 + after, top + 14.5, words, "small")
    p.left(
        10,
        22 + 2 * tall,
        "inner bar: before the cut; outer: divided by what is kept",
        "small quiet",
    )
    return p


def backward_chain() -> Picture:
    x, w = 2.0, 0.5
    y = w * x
    prob = 1 / (1 + math.exp(-y))
    loss = -math.log(prob)
    at_p = -1 / prob
    at_y = at_p * prob * (1 - prob)
    at_w = at_y * x

    def said(number: float) -> str:
        return f"{round(number, 3):g}".replace("-", "−")

    p = Picture(
        "backward-chain",
        232,
        "A chain of three steps, forward and back",
        f"Forward, from the left: the weight w is {w:g}; times x, which is {x:g}, it is y, "
        f"{y:g}; the sigmoid of y is p, {prob:.3f}; minus the logarithm of p is the loss, "
        f"{loss:.3f}. Back, from the right: the gradient at p is {said(at_p)}, at y "
        f"{said(at_y)}, at w {said(at_w)}; each is the one before it times the slope of the "
        "step between them.",
    )
    steps = ("× x", "sigmoid", "− ln")
    slopes = (("× x", x), ("× p (1 − p)", prob * (1 - prob)), ("× (−1 / p)", at_p))
    values = (("w", w, at_w), ("y", y, at_y), ("p", prob, at_p), ("loss", loss, 1.0))
    left, wide, apart = 10, 62, 119
    p.left(left, 26, "forward: the values", "small said blue")
    p.left(left, 218, "back: how fast the loss changes with each", "small said warm")
    for i, (name, value, grad) in enumerate(values):
        at = left + apart * i
        p.box(at, 44, wide, 48, f"{name}\n{said(value)}", "blue", say="strong")
        p.box(at, 140, wide, 40, said(grad), "warm", say="number")
        if i < 3:
            middle = at + (wide + apart) / 2
            p.arrow((at + wide, 68), (at + apart, 68), hue="blue")
            p.text(middle, 60, steps[i], "small")
            p.arrow((at + apart, 160), (at + wide, 160), hue="warm")
            p.text(middle, 130, slopes[i][0], "small quiet")
            p.text(middle, 152, said(slopes[i][1]), "small quiet")
    return p


def matmul_backward() -> Picture:
    p = Picture(
        "matmul-backward",
        424,
        "A product of matrices, forward and back",
        "Three products drawn as grids. Forward: x, six positions by four inputs, times W "
        "transposed, four by three, is y, six by three. Back to the input: the gradient g, "
        "six by three, times W, three by four, is six by four, as x. Back to the weight: g "
        "transposed, three by six, times x, six by four, is three by four, as W.",
    )
    side = 15
    sizes = {"x": (6, 4), "W": (3, 4), "y": (6, 3), "g": (6, 3)}
    hues = {"x": "blue", "W": "green", "y": "violet", "g": "warm"}

    def grid(x: float, middle: float, name: str, label: str) -> float:
        "A matrix with its label and shape, turned where the label says so; gives its end."
        rows, columns = reversed(sizes[name]) if "ᵀ" in label else sizes[name]
        top, wide = middle - side * rows / 2, side * columns
        hue = hues["g"] if label.startswith("gradient") else hues[name]
        for i in range(rows):
            for j in range(columns):
                p.cell(x + side * j, top + side * i, side, side, hue=hue)
        p.text(x + wide / 2, top - 8, label, f"small said {hue}")
        shape = f"{rows} × {columns}"
        p.text(x + wide / 2, top + side * rows + 16, shape, "small quiet")
        return x + wide

    at_x, at_w = "gradient at x", "gradient at W"
    products = (
        ("forward", "all inputs of", "a position", ("x", "x"), ("W", "Wᵀ"), ("y", "y")),
        ("back to x", "all outputs of", "a position", ("g", "g"), ("W", "W"), ("x", at_x)),
        ("back to W", "all positions", "together", ("g", "gᵀ"), ("x", "x"), ("W", at_w)),
    )
    for row, (title, note, more, *factors, result) in enumerate(products):
        middle = 74 + 139 * row
        p.left(10, middle - 8, title, "strong")
        p.left(10, middle + 10, note, "small quiet")
        p.left(10, middle + 26, more, "small quiet")
        end = grid(124, middle, *factors[0])
        p.text(end + 18, middle + 5, "×")
        grid(end + 36, middle, *factors[1])
        p.text(331, middle + 5, "=")
        grid(354, middle, *result)
    return p


def needed(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    "Of the arrows from a module to others, those to where no longer way leads."
    beyond: dict[str, set[str]] = {}  # module -> what is reached from it in two steps or more
    for module in house.modules():
        steps = [arrows[other] | beyond[other] for other in arrows[module]]
        beyond[module] = set().union(*steps)
    return {module: there - beyond[module] for module, there in arrows.items()}


def modules() -> Picture:
    rooms = {
        "The ground": (house.FOUNDATION, "soft"),
        "The main line": (house.MAIN_LINE, "teal"),
        "Under the hood": (house.UNDER_THE_HOOD, "warm"),
        "Understand, share": (house.BEHIND, "violet"),
    }
    place, hues, headings, y = {}, {}, {}, 80.0
    for room, (names, hue) in rooms.items():
        headings[room] = y
        for module in house.modules(names):
            y += 18
            place[module], hues[module] = y, hue
        y += 30
    found = {name: {other for other, _ in house.imports(house.tree(name))} for name in place}
    back = {a: {b for b in there if place[b] < place[a]} for a, there in found.items()}
    doors = [(a, b) for a, there in found.items() for b in there - back[a]]
    p = Picture(
        "modules",
        y,
        "The modules of lm336, and which imports which",
        f"A column of {len(place)} modules in four rooms, from errors at the top to cli at "
        "the foot. Arrows on the right lead from each module up to those that it imports; "
        f"where a longer way leads there, none is drawn. {len(doors)} dashed arrows on the "
        "left lead down, to what a function imports when it is called.",
    )
    left, right = 90, 230
    p.left(8, 24, "An arrow leads to what is imported.", "small quiet")
    p.left(8, 41, "None stands where a longer way leads there, too.", "small quiet")
    p.left(8, 58, "Dashed: to a later one, by a function when it is called.", "small quiet")
    for room, above in headings.items():
        p.left(left, above + 2, room, f"small strong said {rooms[room][1]}")
    for module, below in place.items():
        p.box(left, below - 8, right - left, 16, hue=hues[module], round=3)
        p.left(left + 5, below + 4.5, module, "code")
    tall = max(place.values()) - min(place.values())
    for a, there in needed(back).items():
        for b in sorted(there, key=place.__getitem__):
            reach = 8 + 192 * ((place[a] - place[b]) / tall) ** 0.7
            p.arc(right, place[a], place[b], reach, hues[a])
    for a, b in sorted(doors, key=lambda pair: [place[name] for name in pair]):
        reach = 8 + 76 * ((place[b] - place[a]) / tall) ** 0.7
        p.arc(left, place[a], place[b], -reach, hues[a], "4 3")
    return p


DIAGRAMS = {
    "tour": tour,
    "bpe-merges": bpe_merges,
    "windows": windows,
    "attention-one-query": attention_one_query,
    "attention-heads": attention_heads,
    "block": block,
    "model": model,
    "loop": loop,
    "adamw-step": adamw_step,
    "t4-memory": t4_memory,
    "sampling-cuts": sampling_cuts,
    "backward-chain": backward_chain,
    "matmul-backward": matmul_backward,
    "modules": modules,
}


def main(names: list[str]) -> None:
    "Draw the named diagrams, or all."
    for name in names or DIAGRAMS:
        (FOLDER / f"{name}.svg").write_text(str(DIAGRAMS[name]()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
