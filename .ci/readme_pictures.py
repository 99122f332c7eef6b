"""The pictures that open README.md: python .ci/readme_pictures.py [sampler|loss ...]

nbs/sampler.gif shows the sampling panel at work: the page's own panel and model, a frame
for each token. nbs/loss.png is the loss curve of data/demo above its floor."""

import json
import math
import re
import shutil
import sys
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pictures
from PIL import Image, ImageChops, ImageColor
from playwright.sync_api import sync_playwright

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "data/demo"
PAPER, INK, SOFT, LINE = "#fbfaf7", "#1d2730", "#55616b", "#d8d4c8"  # theme-light.scss
ACCENT, WARM = "#0b6770", "#96450f"
PROMPT, SEED = "A gray box", 2
COLORS, MOST_BYTES = 127, 1_500_000
TOKEN, FIRST, LAST = 120, 1_200, 6_000  # milliseconds that a frame is shown

# What the worker says waits until it is asked for, so every token can be photographed.
HOLD = """
window.held = [];
window.Worker = class extends Worker {
  set onmessage(hear) {
    super.onmessage = ({ data }) => data.forEach(message => held.push([message, hear]));
  }
};
window.next = () => {
  const [message, hear] = held.shift();
  hear({ data: [message] });
  return message.type;
};
"""


def asked(page) -> str:
    "Let the panel hear the next message; its type."
    page.wait_for_function("held.length > 0")
    return page.evaluate("next()")


def story(page):
    "Press the panel's button and yield after every token; at last, after the bars of the end."
    page.locator("button[type=submit]").click()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    kind = ""
    while kind != "bars":
        kind = asked(page)
        if kind in ("token", "bars"):
            yield kind


def photograph(page, box) -> Image.Image:
    return Image.open(BytesIO(page.screenshot(clip=box))).convert("RGB")


def panel_on(browser, address):
    page = browser.new_page(viewport=dict(width=760, height=1000), device_scale_factor=1.5)
    page.add_init_script(HOLD)
    page.goto(address)
    page.locator(".lm336").wait_for()
    page.locator("[name=prompt]").fill(PROMPT)
    page.locator("[name=seed]").fill(str(SEED))
    return page


def frames_of(browser, address) -> list[Image.Image]:
    "The panel before the story, after each of its tokens, and at its end."
    page = panel_on(browser, address)
    for _ in story(page):
        pass
    box = page.locator(".lm336").bounding_box()  # as large as it will be at the end
    box = {name: math.ceil(length) for name, length in box.items()}
    page.close()
    page = panel_on(browser, address)
    frames = [photograph(page, box)]
    frames += [photograph(page, box) for _ in story(page)]
    page.close()
    return frames


def save_gif(frames: list[Image.Image], path: Path) -> None:
    "One palette for all; of a frame only the pixels that have changed, the rest see-through."
    kept = [0] + [i for i in range(1, len(frames))
                  if ImageChops.difference(frames[i], frames[i - 1]).getbbox()]
    both = np.concatenate([frames[len(frames) // 2], frames[-1]])  # amid the story, and after
    palette = Image.fromarray(both).quantize(COLORS, dither=Image.Dither.NONE)
    paper = ImageColor.getrgb(PAPER)  # exact, as it is nearly all of the picture
    palette.putpalette([*paper, *palette.getpalette()[: 3 * COLORS - 3]])

    def indices(frame: Image.Image) -> np.ndarray:
        nearest = frame.quantize(palette=palette, dither=Image.Dither.NONE)
        return np.where((np.asarray(frame) == paper).all(-1), 0, np.asarray(nearest))

    flat = [indices(frames[i]) for i in kept]
    assert max(one.max() for one in flat) < COLORS
    unchanged = COLORS
    drawn = [flat[0]]
    drawn += [np.where(new == old, unchanged, new) for old, new in pairwise(flat)]
    colors = [*palette.getpalette()[: 3 * COLORS], 0, 0, 0]
    images = [Image.fromarray(one.astype(np.uint8)) for one in drawn]
    for image in images:
        image.putpalette(colors)
    shown = [FIRST] + [TOKEN] * (len(images) - 2) + [LAST]
    images[0].save(path, save_all=True, append_images=images[1:], duration=shown, loop=0,
                   disposal=1, transparency=unchanged, optimize=False)


def sampler() -> None:
    with pictures.served("sampler") as (address,), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        frames = frames_of(browser, address)
        browser.close()
    path = ROOT / "nbs/sampler.gif"
    save_gif(frames, path)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size:,} bytes, {len(frames)} frames, {frames[0].size}")
    assert size < MOST_BYTES, f"more than {MOST_BYTES:,} bytes"


def loss() -> None:
    "The losses of data/demo above their floor, in nats a token, on logarithmic axes."
    report = (DEMO / "report.md").read_text(encoding="utf-8")
    numbers = (r": ([\d.]+) bits per byte.*over ([\d,]+) tokens and ([\d,]+) bytes"
               r".* of ([\d.]+)\.")
    found = re.search(numbers, report)
    assert found, "data/demo/report.md does not say how good the model is"
    bits, tokens, size, floor = (float(one.replace(",", "")) for one in found.groups())
    score, floor = (one * size / tokens * math.log(2) for one in (bits, floor))
    lines = (DEMO / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]

    plt.rcParams.update({"font.size": 11, "font.family": "sans-serif", "text.color": INK})
    figure, axes = plt.subplots(figsize=(7.6, 3.6), dpi=150, facecolor=PAPER)
    axes.set_facecolor(PAPER)
    drawn = [("loss", SOFT, 1.2, "training"), ("valid_loss", ACCENT, 2.4, "validation")]
    for name, color, width, label in drawn:
        points = [(one["step"], one[name]) for one in records if one.get(name) is not None]
        axes.plot(*zip(*points, strict=True), color=color, lw=width, label=label)
    last = records[-1]["step"]
    axes.plot(last, score, "o", color=WARM, label="the whole validation file")
    axes.axhline(floor, color=INK, ls=(0, (4, 3)), lw=1.2)
    name = f"the floor: the entropy of the stories, {floor:.3f}"
    axes.text(21, floor * 0.955, name, va="top")
    above = f"{score / floor - 1:.1%} above it"
    axes.text(last * 1.15, floor * 0.955, above, color=WARM, ha="right", va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.34, 10)
    steps, losses = [20, 100, 1000, 10_000], [0.5, 1, 2, 4, 8]
    for axis, ticks in ((axes.xaxis, steps), (axes.yaxis, losses)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(color=LINE, lw=0.6)
    axes.tick_params(colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.legend(frameon=False, loc="upper right")
    figure.tight_layout()
    path = ROOT / "nbs/loss.png"
    figure.savefig(path, facecolor=PAPER, metadata={"Software": None})
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    for name in sys.argv[1:] or ("sampler", "loss"):
        {"sampler": sampler, "loss": loss}[name]()
