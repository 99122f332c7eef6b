"""The static pictures of the panels, nbs/NAME.png: python .ci/pictures.py [NAME ...]

They are for those who print, and where scripts do not run."""

import runpy
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def tell(panel):
    panel.locator("[type=submit]").click()
    panel.locator(".status", has_text="per second").wait_for()
    panel.locator(".bars button").first.wait_for()
    panel.get_by_role("option", name="␣thoughtful").click()


def look(panel):
    panel.locator("button").click()
    panel.get_by_role("radio", name="layer 4, head 5").check()
    panel.get_by_role("option", name="␣boat").hover()


def judge(panel):
    panel.locator("[type=submit]").click()
    panel.locator(".status", has_text="excess").wait_for()
    panel.get_by_role("option", name="␣six 3.5 bits of excess").click()
    panel.locator(".truth[style]").first.wait_for()


def train(panel):
    panel.get_by_role("option", name="5: ␣a", exact=True).click()
    panel.get_by_role("button", name="Train").click()
    panel.locator(".now", has_text="Done").wait_for(timeout=600_000)


def set_to(panel, **values):
    for name, value in values.items():
        panel.locator(f"[name={name}]").fill(str(value))


# Panel -> its data-src, and what is done with it before the picture is taken.
PANELS = dict(
    sampler=("model", tell),
    bpe=(None, partial(set_to, step=4)),
    painter=("model/tokenizer.json", set_to),
    rope=(None, partial(set_to, shift=17)),
    attention=("model", look),
    schedule=(None, set_to),
    learn=("model/learn.json", partial(set_to, stop=8)),
    **{"train-here": (None, train), "oracle-view": ("model", judge)},
)
PAGE = """<!doctype html><link rel="icon" href="data:,"><meta charset="utf-8">
<body class="quarto-light" style="margin: 20px">
<div class="lm336-widget" data-widget="{name}" {source}></div>
<script type="module" src="web/embed.js"></script>
"""


@contextmanager
def served(*names):
    "The address of a page with one panel, for each name; what it needs is served beside it."
    with tempfile.TemporaryDirectory() as folder:
        runpy.run_path(str(ROOT/".ci/site.py"))["assets"](Path(folder))
        for name in names:
            src, _ = PANELS[name]
            source = f'data-src="{src}"' if src else ""
            html = PAGE.format(name=name, source=source)
            (Path(folder)/f"{name}.html").write_text(html)
        handler = partial(Quiet, directory=folder)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        yield [f"{home}/{name}.html" for name in names]
        server.shutdown()


def main(names):
    with served(*names) as addresses, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=dict(width=760, height=900), device_scale_factor=1.5)
        for name, address in zip(names, addresses, strict=True):
            _, prepare = PANELS[name]
            page.goto(address)
            panel = page.locator(".lm336")
            panel.wait_for()
            prepare(panel)
            page.evaluate("document.activeElement.blur()")
            shot = Image.open(BytesIO(panel.screenshot(animations="disabled"))).convert("RGB")
            path = ROOT/f"nbs/{name}.png"
            shot.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"nbs/{name}.png: {path.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:] or PANELS)
