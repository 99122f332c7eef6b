"""nbs/og.png, the picture that stands beside a shared link: python .ci/og.py"""
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAPER, INK, ACCENT = "#fbfaf7", "#1d2730", "#0b6770"     # as in nbs/theme-light.scss
STEPS = "text", "tokens", "vectors", "attention", "logits", "text"

figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
figure.text(.07, .70, "lm336", size=84, weight="bold", color=ACCENT)
figure.text(.07, .54, "A language model from nothing but tensor arithmetic", size=27, color=INK)
at = .085
for i, step in enumerate(STEPS):
    if i:
        at = figure.text(at + .008, .30, "→", size=21, color=INK, va="center").get_window_extent().x1 / 1200 + .02
    at = figure.text(at, .30, step, size=20, color=INK, va="center", bbox=dict(boxstyle="round,pad=.5", facecolor="none", edgecolor=ACCENT,
                                                                             linewidth=2)).get_window_extent().x1 / 1200 + .012
figure.text(.07, .11, "Notebooks, a tested package, and a model that runs in the page", size=22, color=INK)
figure.savefig(Path(__file__).parents[1]/"nbs/og.png", facecolor=PAPER, metadata={"Software": None})
