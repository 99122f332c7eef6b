"""The pages in a real browser, light and dark.

axe-core finds nothing serious, and the page for a wrong address works from any depth.
"""
import json
import re
import runpy
import shutil
import subprocess
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from . import test_page
from .axe import serious
from .test_page import Quiet, serve
from .test_widgets import contrast

chromium = test_page.chromium  # fixtures: a browser,
web_page = test_page.site  # and the folder of lm336_web

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "_docs"
SCHEMES = "light", "dark"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_colour_can_be_read_on_every_paper(scheme):
    "WCAG 2.1, 1.4.3: 4.5 to 1, for all colours of the theme on the page and behind code."
    theme = (ROOT / f"nbs/theme-{scheme}.scss").read_text()
    found = re.findall(r"(?m)^\$([\w-]+): +#(\w{6});", theme)
    colours = {name: [int(code[k : k + 2], 16) for k in (0, 2, 4)] for name, code in found}
    papers = {name: colours.pop(name) for name in ("paper", "shade")}
    assert colours.pop("line") and len(colours) >= 8
    ratios = {
        (ink, paper): contrast(colour, shade)
        for ink, colour in colours.items()
        for paper, shade in papers.items()
    }
    assert not {pair: round(ratio, 2) for pair, ratio in ratios.items() if ratio < 4.5}


class Lost(Quiet):
    "Answers every address that does not exist with 404.html, as servers of static pages do."

    def send_error(self, code, message=None, explain=None):
        page = (Path(self.directory) / "book/404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page)


LOST = """<!doctype html><html lang="en">
<head><title>x</title><script src="/lm336/s.js"></script></head>
<body><a href="/lm336/index.html">home</a></body></html>"""


@pytest.mark.parametrize("address", ["lost.html", "deep/down/lost", "deep/down/"])
def test_a_wrong_address_leads_home_from_any_depth(page, tmp_path, address):
    "Built for /lm336/, served under /book/: the links of 404.html still lead home."
    book = tmp_path / "book"
    book.mkdir()
    mend = runpy.run_path(str(ROOT / ".ci/site.py"))["at_any_depth"]
    (book / "404.html").write_text(mend(LOST, "/lm336/"))
    (book / "index.html").write_text("<title>home</title>")
    (book / "s.js").write_text("window.ran = true")
    (book / "search.json").write_text("[]")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Lost, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    page.goto(f"http://127.0.0.1:{server.server_port}/book/{address}")
    assert page.evaluate("window.ran") is True
    page.click("text=home")
    page.wait_for_function("document.title == 'home'")
    server.shutdown()


@pytest.fixture
def page(chromium, request):
    scheme = getattr(request, "param", "light")
    context = chromium.new_context(
        viewport=dict(width=1280, height=900), color_scheme=scheme
    )
    page = context.new_page()
    page.set_default_timeout(100_000)
    yield page
    context.close()


@pytest.mark.parametrize("page", SCHEMES, indirect=True)
def test_the_page_of_lm336_web(page, web_page):
    page.goto(web_page[1])
    page.click("#go:enabled")
    # its policy lets no string be run as a program
    page.wait_for_selector("#status:has-text('400 tokens')")
    assert serious(page) == []


@pytest.fixture(scope="module")
def docs():
    with serve(DOCS) as address:
        yield address


CUT = """() => [...document.querySelectorAll(".cell div.sourceCode")]
  .filter(block => [block, block.querySelector("pre")].some(
    part => part.offsetParent && part.scrollWidth > part.clientWidth + 1))
  .map(block => block.textContent.slice(0, 60))"""  # code that a reader must scroll to see
IS_RENDERED = (DOCS / "index.html").exists()


@pytest.mark.skipif(not IS_RENDERED, reason="the site is not rendered: make docs")
@pytest.mark.parametrize("page", SCHEMES, indirect=True)
@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.html")))
def test_rendered_page(page, docs, name, request):
    mode = dict(light="default", dark="alternate")[request.node.callspec.params["page"]]
    page.add_init_script(f"localStorage.setItem('quarto-color-scheme', '{mode}')")
    page.goto(docs + name)
    for panel in page.locator(".lm336-widget").all():
        panel.scroll_into_view_if_needed()
        panel.and_(page.locator(".lm336")).wait_for()
    page.wait_for_load_state("networkidle")
    for width in (1280, 360):
        page.set_viewport_size(dict(width=width, height=900))
        fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert fits, f"wider than a screen of {width} pixels"
        assert width < 1280 or page.evaluate(CUT) == []
        assert serious(page) == []


# What is looked for -> the page that builds it, which the search shows first.
SEARCHED = {
    "softmax": "attention", "attention mask": "attention", "KV cache": "generation",
    "byte pair": "bpe", "learning rate": "adamw", "RMSNorm": "block", "top-p": "generation",
    "perplexity": "loss", "gradient clipping": "adamw", "rotary": "rope", "checkpoint": "runs",
}
SEARCH = """const [, Fuse, index, queries] = process.argv;
const keys = [["title", 20], ["section", 20], ["text", 10]];
const options = { keys: keys.map(([name, weight]) => ({ name, weight })),
                  ignoreLocation: true, threshold: 0.1 };  // as quarto-search.js has them
const fuse = new (require(Fuse))(require(index), options);
const first = query => fuse.search(query)[0]?.item.href;
console.log(JSON.stringify(JSON.parse(queries).map(first)));"""


def found_first(fuse, index):
    "The page that Quarto's search shows first, for each of what is looked for."
    words = json.dumps(list(SEARCHED))
    command = ["node", "-e", SEARCH, str(fuse), str(index), words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [(href or "").partition(".html")[0] for href in json.loads(done.stdout)]


@pytest.mark.skipif(not IS_RENDERED, reason="the site is not rendered: make docs")
@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
def test_search_finds_the_chapter_that_builds_a_thing_first():
    found = found_first(DOCS / "site_libs/quarto-search/fuse.min.js", DOCS / "search.json")
    assert dict(zip(SEARCHED, found, strict=True)) == SEARCHED


@pytest.mark.skipif(not IS_RENDERED, reason="the site is not rendered: make docs")
@pytest.mark.parametrize("path", sorted(DOCS.glob("[!4]*.html")), ids=lambda at: at.name)
def test_a_rendered_page_has_our_picture_and_a_link_past_the_sidebar(path):
    page = path.read_text(encoding="utf-8")
    pictures = re.findall(r'<meta property="og:image" content="([^"]*)"', page)
    assert [one.rsplit("/", 1)[-1] for one in pictures] == ["og.png"]
    links = re.findall(r'<a [^>]*href="([^"]*)"', page)
    assert links[0] == "#quarto-document-content" and 'id="quarto-document-content"' in page
