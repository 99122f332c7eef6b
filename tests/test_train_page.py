"""A model learns in a browser's worker: from its files, and from one text as in JupyterLab."""

import shutil

import pytest

from lm336.widgets import one_module

from . import test_page
from .test_page import serve
from .test_train_js import START
from .test_web import WEB

chromium = test_page.chromium  # fixtures
page = test_page.page

# Starts, pauses after the first answer, waits, goes on to the end: what the worker said.
LEARN = """async ({ text, start, wait }) => {
    const address = text ? URL.createObjectURL(new Blob([text], { type: "text/javascript" }))
        : "train-worker.js";
    const worker = new Worker(address, { type: "module" }), heard = [];
    const until = test => new Promise((resolve, reject) => {
        worker.onerror = () => reject(Error("the worker did not start"));
        worker.onmessage = ({ data }) => {
            heard.push(data);
            if (data.type === "error") reject(Error(data.message));
            if (test(data)) resolve();
        };
    });
    const ask = (message, test) => {
        const heard = until(test);
        worker.postMessage(message);
        return heard;
    };
    await ask(start, data => data.type === "progress");
    await ask({ type: "pause" }, data => data.running === false);
    const paused = heard.length;
    await new Promise(resolve => setTimeout(resolve, wait));
    const said = heard.length - paused;
    await ask({ type: "resume" }, data => data.finished);
    await ask({ type: "download" }, data => data.type === "download");
    worker.terminate();
    const { files, zip } = heard.at(-1);
    const named = Object.entries(files).map(([name, { length }]) => [name, length]);
    const sizes = Object.fromEntries(named);
    const losses = heard.flatMap(({ losses }) => losses ?? []);
    return { simd: heard[0].simd, said, losses, sizes, zip: zip.length };
}"""


@pytest.fixture
def site(tmp_path):
    folder = shutil.copytree(WEB, tmp_path / "some/prefix")
    (folder / "empty.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    with serve(tmp_path) as address:
        yield folder, address + "some/prefix/"


@pytest.mark.parametrize("text", [None, "train-worker.js"], ids=["files", "text"])
def test_a_worker_learns_pauses_and_hands_over_its_folder(page, site, text):
    page.goto(site[1] + "empty.html")
    start = START | dict(max_steps=400, learning_rate=0.01)
    text = text and one_module(text)
    found = page.evaluate(LEARN, dict(text=text, start=start, wait=200))
    assert found["simd"], "WebAssembly is there in Chromium"
    assert found["said"] == 0, "nothing is heard of it while it is paused"
    assert [step for step, _, _ in found["losses"]] == list(range(1, 401))
    _, bits, truth = found["losses"][-1]
    assert 0 <= bits - truth < 1
    assert set(found["sizes"]) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert found["zip"] > sum(found["sizes"].values())
