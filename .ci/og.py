"""nbs/og.png, the picture that stands beside a shared link: python .ci/og.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAPER, INK, ACCENT = "#fbfaf7", "#1d2730", "#0b6770"     # as in nbs/theme-light.scss
STEPS = "text", "tokens", "vectors", "attention", "logits", "text"

FRAME = dict(boxstyle="round,pad=.5", facecolor="none", edgecolor=ACCENT, linewidth=2)

figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
figure.text(.07, .70, "lm336", size=84, weight="bold", color=ACCENT)
promise = "A language model from nothing but tensor arithmetic"
figure.text(.07, .54, promise, size=27, color=INK)


def end(text) -> float:
    "Where a text ends on the right, as a share of the picture's width."
    return text.get_window_extent().x1 / 1200


at = .085
for i, step in enumerate(STEPS):
    if i:
        at = end(figure.text(at + .008, .30, "→", size=21, color=INK, va="center")) + .02
    box = figure.text(at, .30, step, size=20, color=INK, va="center", bbox=FRAME)
    at = end(box) + .012
offer = "Notebooks, a tested package, and a model that runs in the page"
figure.text(.07, .11, offer, size=22, color=INK)
picture = Path(__file__).parents[1]/"nbs/og.png"
figure.savefig(picture, facecolor=PAPER, metadata={"Software": None})
