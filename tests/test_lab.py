"""JupyterLab itself in a real browser: run all cells, move each control, see what it moves.

No errors, and nothing is fetched from elsewhere.
"""
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

from . import test_page

chromium = test_page.chromium  # a fixture

ROOT = Path(__file__).parents[1]
ARTEFACTS = os.environ.get("LM336_ARTEFACTS")  # a folder for screenshots
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are in the page
}

SETUP = """import torch
from lm336 import widgets
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig
torch.manual_seed(0)
tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])
model = Transformer(TransformerConfig(256, 64, 32, 2, 2, tie_embeddings=True))"""

# Widget -> how it is shown, and its controls:
# (control, what to do with it, the part of the panel that must change, what to press then).
WIDGETS = {
    "Sampler": ("widgets.Sampler(model, tokenizer)", [
        ("button", "click", ".text"),
        ("[name=prompt]", "Once", ".bars"),
        ("[name=temperature]", "ArrowRight", ".bars"),
        ("[name=top_k]", "End", ".bars"),
        ("[name=top_p]", "ArrowLeft", ".bars"),
        ("[name=seed]", "7", ".text", "button"),
    ]),
    "BPEStepper": ("widgets.BPEStepper('she sells sea shells')", [
        ("button >> nth=0", "click", ".words"),
        ("[name=step]", "ArrowRight", ".words"),
        ("[name=back]", "click", ".words"),
        ("[name=text]", "the other text", ".bars"),
    ]),
    "BPEStepper, told to step beyond its last merge": ("""stepper = widgets.BPEStepper('ab')
stepper.step = 99
stepper""", [
        ("[name=back]", "click", ".words"),
    ]),
    "TokenPainter": ("widgets.TokenPainter(tokenizer)", [
        ("[name=text]", "Twice", ".chips"),
    ]),
    "ScheduleExplorer": ("widgets.ScheduleExplorer()", [
        ("[name=warmup]", "ArrowRight", ".curve"),
        ("[name=peak]", "ArrowLeft", ".curve"),
        ("[name=floor]", "ArrowRight", ".curve"),
        ("[name=total]", "ArrowLeft", ".curve"),
        ("[name=step]", "ArrowRight", ".mark"),
    ]),
    "RoPEExplorer": ("widgets.RoPEExplorer()", [
        ("[name=query]", "ArrowRight", ".sums"),
        ("[name=key]", "ArrowRight", ".sums"),
        ("[name=shift]", "ArrowRight", ".dials"),
    ]),
    "AttentionView": ("widgets.AttentionView(model, tokenizer, 'Once upon')", [
        ("[name=text]", "Twice", ".tokens", "button"),
        (".tokens [role=option] >> nth=-1", "ArrowLeft", ".looks"),
        (".heads input >> nth=0", "ArrowRight", ".matrix"),
    ]),
    "LearningSlider": ("""import json
widgets.LearningSlider(json.load(open('../data/learn.json'))['records'])""", [
        ("[name=stop]", "ArrowRight", ".text"),
    ]),
    "TrainHere": ("widgets.TrainHere()", [
        ("[name=grammar]", "# p\n[yes|no]", ".about"),
        ("[name=one]", "click", ".numbers"),
        (".tokens [role=option] >> nth=0", "ArrowRight", ".looks"),
        ("[name=again]", "click", ".numbers"),
    ]),
}
OPTIONS = """
    --no-browser --allow-root --ip=127.0.0.1 --ServerApp.port_retries=0
    --IdentityProvider.token= --LabApp.extension_manager=readonly --expose-app-in-browser
    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate
"""


def test_a_notebook_is_saved_as_it_is_committed(tmp_path):
    "By the settings of `make lab`: a run's numbers, times and widgets leave no trace."
    pytest.importorskip("nbdev")
    manager = pytest.importorskip("jupyter_server.services.contents.filemanager")
    config = pytest.importorskip("traitlets.config").Config()
    runpy.run_path(str(ROOT / ".ci/lab.py"), {"get_config": lambda: config})
    committed = (ROOT / "nbs/03_dataset.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(committed)
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "5f"}}
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] |= {"trusted": True, "execution": {"iopub.status.busy": "12:00"}}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number + 1
            shown = {"output_type": "display_data", "data": view, "metadata": {}}
            cell["outputs"].insert(0, shown)
    notebook["metadata"] |= {"widgets": {"state": {}}, "language_info": {"version": "3.14"}}
    model = {"type": "notebook", "format": "json", "content": notebook}
    manager.FileContentsManager(root_dir=str(tmp_path), config=config).save(model, "a.ipynb")
    assert (tmp_path / "a.ipynb").read_text(encoding="utf-8") == committed


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab with no memory of others: its folder, with the data, and its address."
    if not find_spec("jupyterlab"):
        pytest.skip("jupyterlab is not installed")
    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("lab")
    for name in ("data", "benchmarks"):
        (root / name).symlink_to(ROOT / name)
    (root / "nbs").mkdir()
    for name, setting in SETTINGS.items():
        path = home / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": f"{home}/config",
        "JUPYTER_RUNTIME_DIR": f"{home}/runtime",
        "JUPYTERLAB_SETTINGS_DIR": f"{home}/settings",
        "JUPYTERLAB_WORKSPACES_DIR": f"{home}/workspaces",
        "IPYTHONDIR": f"{home}/ipython",
        "TQDM_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with open(home / "log", "wb") as log:
        where = [f"--port={port}", f"--ServerApp.root_dir={root}"]
        command = [sys.executable, "-m", "jupyterlab", *OPTIONS.split(), *where]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_for(address + "/api/status", server, home / "log")
        yield root, address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address, server, log, seconds=120):
    end = time.monotonic() + seconds
    while True:
        assert server.poll() is None, f"JupyterLab stopped: {log.read_text()[-2000:]}"
        try:
            return urlopen(address, timeout=5).close()
        except OSError:
            said = log.read_text()[-2000:]
            assert time.monotonic() < end, f"JupyterLab does not answer: {said}"
        time.sleep(0.2)


# anywidget gives a model two seconds to begin, which are too few on a busy machine
PATIENT = """const timeout = AbortSignal.timeout.bind(AbortSignal);
AbortSignal.timeout = ms => timeout(100 * ms);"""


class Notebook:
    "A notebook open in JupyterLab, all of its cells run."

    def __init__(self, page, lab, name):
        self.page = page
        _, address = lab
        ours = (address, "data:", "blob:")
        self.errors, self.foreign = [], []
        page.set_default_timeout(200_000)  # a limit, not a claim: a busy machine is slow

        def on_message(message):
            if message.type == "error":
                self.errors.append(f"{message.text} {message.location['url']}")

        def on_request(request):
            if not request.url.startswith(ours):
                self.foreign.append(request.url)

        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", on_message)
        page.context.on("request", on_request)
        page.add_init_script(PATIENT)
        page.goto(f"{address}/lab/tree/nbs/{name}?reset", wait_until="domcontentloaded")
        kernel = "jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        page.wait_for_function(f"() => window.{kernel}?.status === 'idle'")
        run_all = "() => jupyterapp.commands.execute('notebook:run-all-cells')"
        assert page.evaluate(run_all), self.complaints()

    def outputs(self):
        content = "jupyterapp.shell.currentWidget.content"
        cells = self.page.evaluate(f"() => {content}.model.toJSON().cells")
        return [output for cell in cells for output in cell.get("outputs", [])]

    def complaints(self):
        "What went wrong in the kernel: exceptions, also in callbacks, and all of stderr."
        found = [
            output
            for output in self.outputs()
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]
        shown = "[data-mime-type='application/vnd.jupyter.{}']"
        kinds = f"{shown.format('error')}, {shown.format('stderr')}"
        return found + self.page.locator(kinds).all_inner_texts()

    def finish(self):
        assert self.complaints() == []
        assert self.errors == [] and self.foreign == []


@contextmanager
def opened(chromium, lab, name):
    "A notebook while the block runs; at the end nobody has complained."
    page = chromium.new_page(viewport=dict(width=1300, height=1000))
    try:
        notebook = Notebook(page, lab, name)
        yield notebook
        if ARTEFACTS:
            page.screenshot(path=Path(ARTEFACTS) / f"lab-{name}.png")
        notebook.finish()
        page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    finally:
        page.close()


PICTURE = """el => {
    const canvases = [...el.querySelectorAll('canvas')];
    if (el.matches('canvas')) canvases.push(el);
    return el.outerHTML + canvases.map(canvas => canvas.toDataURL());
}"""


def picture(part):
    "What a part of a panel shows, to the last attribute and pixel."
    return part.evaluate(PICTURE)


def move(control, action):
    if action == "click":
        control.click()
    elif action.startswith(("Arrow", "Home", "End", "Page", "Enter", "Space")):
        control.press(action)
    else:
        control.fill(action)


def changes(page, part, before, what):
    "Waits until a part of a panel shows something else."
    for _ in range(300):
        if picture(part) != before:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{what} moved nothing")


def settle(page, part):
    "Waits until a part of a panel has shown the same for half a second."
    last = None
    while last != (last := picture(part)):
        page.wait_for_timeout(500)
    return last


@pytest.fixture(scope="module")
def panels(chromium, lab):
    "A notebook with every panel in a cell of its own, run."
    shown = [SETUP, *(show for show, _ in WIDGETS.values())]
    cells = [nbformat.v4.new_code_cell(code) for code in shown]
    # without a kernel's name JupyterLab asks for one
    kernel = dict(name="python3", display_name="Python 3", language="python")
    written = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel))
    nbformat.write(written, lab[0] / "nbs/panels.ipynb")
    with opened(chromium, lab, "panels.ipynb") as notebook:
        yield notebook


@pytest.mark.parametrize("name", WIDGETS)
def test_each_control_moves_its_panel(panels, name):
    page, (_, controls) = panels.page, WIDGETS[name]
    cell = page.locator(".jp-CodeCell").nth(1 + list(WIDGETS).index(name))
    panel = cell.locator(".lm336").first
    panel.wait_for()
    for control, action, part, *press in controls:
        shown = panel.locator(part).first
        before = settle(page, shown)
        move(panel.locator(control).first, action)
        if press:
            panel.locator(press[0]).first.click()
        changes(page, shown, before, f"{name}: {control}")
    settle(page, panel)
    panels.finish()


def chapter(name, root, end=None):
    "A copy of a chapter as far as a cell that ends with these words, and of its pictures."
    written = nbformat.read(ROOT / "nbs" / name, as_version=4)
    ends = [i for i, cell in enumerate(written.cells) if end and cell.source.endswith(end)]
    written.cells = written.cells[: ends[0] + 1 if end else None]
    nbformat.write(written, root / "nbs" / name)
    for picture in (ROOT / "nbs").glob("*.png"):
        shutil.copy(picture, root / "nbs")
    shutil.copytree(ROOT / "nbs/pictures", root / "nbs/pictures", dirs_exist_ok=True)
    return name


def test_the_chapter_of_the_widgets_runs(chromium, lab):
    with opened(chromium, lab, chapter("20_widgets.ipynb", lab[0])) as notebook:
        panels = notebook.page.locator(".jp-OutputArea .lm336")
        names = "sampler bpe painter rope attention schedule learn train-here"
        for name in names.split():
            panels.and_(panels.page.locator(f".lm336-{name}")).first.wait_for()


def test_the_panel_of_the_generation_chapter(chromium, lab):
    "The sampler on the shipped model, the first widget of the chapter."
    name = chapter("14_generation.ipynb", lab[0], "Sampler(model, tokenizer)")
    with opened(chromium, lab, name) as notebook:
        panel = notebook.page.locator(".jp-OutputArea .lm336-sampler").first
        panel.locator("button").first.click()
        panel.locator(".status", has_text="per second").wait_for()
