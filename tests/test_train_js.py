"""Training in the page, run by Node, against PyTorch: every gradient, the losses of a run."""

import io
import json
import math
import random
import shutil
import subprocess
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, silu

from lm336.adamw import AdamW, clip_grad_norm_
from lm336.grammar import StoryGrammar
from lm336.loss import token_nats
from lm336.schedule import cosine_schedule
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig, parameter_shapes
from lm336.widgets import one_module

from . import test_web

node = test_web.node
PATHS = pytest.mark.parametrize("simd", [True, False], ids=["WebAssembly", "JavaScript"])


# ---- the oracle: the model in PyTorch's own operations


def normed(x, weight, eps):
    return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)


def turned(x, theta):
    "RoPE as a product of complex numbers. x: (heads, story, d_head)."
    _, length, width = x.shape
    speeds = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), speeds)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def logits_of(weights, config, ids, rope=True, mask=True):
    "Scores (story, vocab) for one story, from a dict of weights."
    w = {name.removesuffix(".weight"): x for name, x in weights.items()}
    x = w["token_embeddings"][ids]
    for i in range(config.num_layers):
        at = f"layers.{i}"
        h = normed(x, w[f"{at}.ln1"], config.norm_eps)
        q, k, v = (
            (h @ w[f"{at}.attn.{name}_proj"].T)
            .unflatten(-1, (config.num_heads, -1))
            .transpose(0, 1)
            for name in "qkv"
        )
        if rope:
            q, k = turned(q, config.rope_theta), turned(k, config.rope_theta)
        mix = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=mask)
        x = x + mix.transpose(0, 1).flatten(-2) @ w[f"{at}.attn.output_proj"].T
        h = normed(x, w[f"{at}.ln2"], config.norm_eps)
        gate, up = h @ w[f"{at}.ffn.w1"].T, h @ w[f"{at}.ffn.w3"].T
        x = x + (silu(gate) * up) @ w[f"{at}.ffn.w2"].T
    head = w["token_embeddings" if config.tie_embeddings else "lm_head"]
    return normed(x, w["ln_final"], config.norm_eps) @ head.T


def loss_of(weights, config, stories, **switches):
    "Nats per story: summed over a story's targets, the mean over the stories."
    nats = torch.zeros((), dtype=torch.float64)
    for story in stories:
        logits = logits_of(weights, config, story[:-1], **switches)
        nats = nats + cross_entropy(logits, torch.tensor(story[1:]), reduction="sum")
    return nats / len(stories)


def random_weights(config, seed, dtype=torch.float64):
    "Weights that float32 holds, so that both sides begin with the same."
    torch.manual_seed(seed)
    weights = {}
    for name, shape in parameter_shapes(config).items():
        drawn = torch.rand(shape) + 0.5
        if len(shape) > 1:
            drawn = torch.randn(shape) / math.sqrt(shape[-1])
        weights[name] = drawn.to(dtype).requires_grad_()
    return weights


def random_stories(config, count, seed, longest=None):
    rng = random.Random(seed)
    longest = longest or config.context_length
    return [
        [0, *(rng.randrange(config.vocab_size) for _ in range(rng.randint(1, longest)))]
        for _ in range(count)
    ]


def as_lists(weights):
    return {name: x.detach().flatten().tolist() for name, x in weights.items()}


def trained(node, config, batches, weights=None, **settings):
    "What the page makes of these batches."
    given = dict(config=config.__dict__, settings=settings, batches=batches)
    return node("train", given | dict(weights=weights and as_lists(weights)))


def assert_same(found, expected, share):
    "Numbers that differ by at most a share of the largest expected."
    found = torch.tensor(found, dtype=torch.float64).view(expected.shape)
    error = (found - expected).abs().max() / expected.abs().max()
    assert error <= share, f"differ by {error:.1e} of the largest"
    return error.item()


# ---- gradients


def random_shape(seed):
    rng = random.Random(seed)
    heads, half = rng.randint(1, 4), rng.randint(1, 9)
    return TransformerConfig(
        vocab_size=rng.randint(2, 60),
        context_length=rng.randint(1, 40),
        d_model=heads * half * 2,
        num_layers=rng.randint(1, 3),
        num_heads=heads,
        d_ff=rng.randint(1, 70),
        rope_theta=rng.choice([10.0, 500.0, 10_000.0]),
        norm_eps=rng.choice([1e-5, 1e-3]),
        tie_embeddings=rng.random() < 0.5,
    )


@PATHS
@pytest.mark.parametrize("seed", range(10))
def test_every_gradient_is_pytorchs(node, seed, simd):
    config = random_shape(seed)
    switches = [{}, {}, dict(rope=False), dict(mask=False)][seed % 4]
    weights = random_weights(config, seed)
    stories = random_stories(config, 7, seed)
    expected = loss_of(weights, config, stories, **switches)
    expected.backward()
    found = trained(node, config, [stories], weights, simd=simd, max_steps=10, **switches)
    assert found["simd"] is simd
    assert found["losses"][0] == pytest.approx(expected.item(), rel=1e-6)
    errors = {
        assert_same(found["gradients"][name], weight.grad, 1e-5): name
        for name, weight in weights.items()
    }
    worst, where = max(errors.items())
    path = "WebAssembly" if simd else "JavaScript"
    print(f"\n{seed}  {path:11}  {worst:.1e} of the largest, in {where}; {config}")


def test_one_row_stands_for_all_ids_that_never_occur(node):
    "The softmax counts it as often as there are such ids; its gradient is the sum of theirs."
    config, used = TransformerConfig(50, 12, 16, 1, 2, d_ff=20), 20
    short = TransformerConfig(**{**config.__dict__, "vocab_size": used + 1})
    weights = random_weights(short, 1)
    whole = dict(weights)
    for name in ("token_embeddings.weight", "lm_head.weight"):
        last = weights[name][used:].expand(50 - used, -1)
        whole[name] = torch.cat([weights[name][:used], last])
    few = TransformerConfig(**{**config.__dict__, "vocab_size": used})
    stories = random_stories(few, 5, 2)
    expected = loss_of(whole, config, stories)
    expected.backward()
    found = trained(node, config, [stories], whole, used=used)
    assert found["losses"][0] == pytest.approx(expected.item(), rel=1e-6)
    for name in weights.keys() - {"token_embeddings.weight"}:  # a row that is never read
        assert_same(found["gradients"][name], weights[name].grad, 1e-5)


# ---- a run

SMALL = TransformerConfig(30, 24, 32, 2, 4, d_ff=48)
RECIPE = dict(learning_rate=0.01, warmup_steps=5, max_steps=50, max_grad_norm=2.0)


@pytest.fixture(scope="module")
def python_run():
    """Fifty updates by the chapters' parts: the weights before, the batches, the losses in
    nats per story, the weights after. Stories are padded, and the padding is not counted."""
    torch.manual_seed(0)
    model = Transformer(SMALL)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    common = random_stories(SMALL, 60, 1)  # seen again and again: there is much to learn
    rng = random.Random(2)
    batches = [rng.sample(common, 24) for _ in range(50)]
    optimizer = AdamW(model.parameters(), 0.01, (0.9, 0.95), weight_decay=0.01)
    losses = []
    for step, stories in enumerate(batches, 1):
        optimizer.param_groups[0]["lr"] = cosine_schedule(step, 0.01, 0.0, 5, 50)
        rows = [torch.tensor(story) for story in stories]
        padded = torch.nn.utils.rnn.pad_sequence(rows, True, -1)
        targets = padded[:, 1:]
        nats = token_nats(model(padded[:, :-1].clamp(min=0)), targets.clamp(min=0))
        loss = nats[targets >= 0].sum() / len(stories)
        loss.backward()
        clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return before, batches, losses, model.state_dict()


@PATHS
def test_fifty_steps_have_pythons_losses(node, python_run, simd):
    before, batches, expected, after = python_run
    found = trained(node, SMALL, batches, before, simd=simd, **RECIPE)
    layers = 2 * SMALL.num_layers  # there and back
    assert found["parts"] >= (50 if simd else 250) * layers, "a batch is worked on in parts"
    assert expected[-1] < 0.7 * expected[0], "a run that learns little would prove little"
    assert found["losses"] == pytest.approx(expected, rel=1e-4)
    assert found["after"] < found["losses"][0]
    for name, weight in after.items():
        assert_same(found["weights"][name], weight, 1e-2)


def test_the_same_seed_gives_the_same_run(node):
    batches = [random_stories(SMALL, 8, step) for step in range(3)]
    first, again, other = (trained(node, SMALL, batches, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first["losses"] != other["losses"]


@pytest.mark.parametrize("tied", [False, True])
def test_a_run_begins_with_weights_like_pythons(node, tied):
    config = TransformerConfig(300, 8, 64, 1, 2, d_ff=128, tie_embeddings=tied)
    still = dict(learning_rate=0, weight_decay=0)
    found = trained(node, config, [random_stories(config, 2, 0)], **still)["weights"]
    torch.manual_seed(0)
    for name, expected in Transformer(config).state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        drawn = torch.tensor(found[name]).view(expected.shape)
        if expected.ndim == 1:
            assert drawn.eq(1).all()
            continue
        assert drawn.std() == pytest.approx(expected.std().item(), rel=0.05), name
        assert 0.97 < drawn.abs().max() / expected.abs().max() <= 1.03, name
        assert abs(drawn.mean()) < 0.05 * drawn.std(), name


def test_a_story_that_does_not_fit_is_refused(node):
    for story in ([0], [0] * 26):
        with pytest.raises(test_web.Refused, match=f"has {len(story)} tokens.* from 2 to 25"):
            trained(node, SMALL, [[story]])
    for story, settings in (([0, 30], {}), ([0, -1], {}), ([0, 20], dict(used=20))):
        with pytest.raises(test_web.Refused, match=f"has the token id {story[1]}; there are"):
            trained(node, SMALL, [[story]], **settings)


def test_a_run_that_has_blown_up_says_so(node):
    weights = {name: x * 1e30 for name, x in Transformer(SMALL).state_dict().items()}
    with pytest.raises(test_web.Refused, match="Step 1: .* norm NaN"):
        trained(node, SMALL, [random_stories(SMALL, 2, 0)], weights)


def test_the_compiled_kernels_are_small():
    assert (test_web.WEB / "kernels-wasm.js").stat().st_size <= 30_000


def test_without_webassembly_it_is_plain_javascript():
    code = """WebAssembly.Module = function () { throw Error("refused"); };
        const { makeKernels } = await import(process.argv[1]);
        console.log(makeKernels().simd);"""
    module = (test_web.WEB / "kernels.js").as_uri()
    words = ["node", "--input-type=module", "-e", code, module]
    assert subprocess.run(words, capture_output=True, text=True).stdout == "false\n"


# ---- the worker

GRAMMAR = """# weather
In the [morning|evening] it was [sunny|rainy|cloudy|windy].
At night there was [snow|fog|thunder|moonlight].
"""
START = dict(type="start", grammar=GRAMMAR, d_model=32, num_heads=2, batch_size=8)
READY, FINISHED = dict(type="ready"), dict(type="progress", finished=True)


def learned(node, *dialogue) -> dict[str, Any]:
    "The answers of the worker, by type: the last of each, and all progress."
    answers = node("learner", dialogue)
    failed = [answer["message"] for answer in answers if answer["type"] == "error"]
    assert not failed
    found: dict[str, Any] = {answer["type"]: answer for answer in answers}
    progress = [answer for answer in answers if answer["type"] == "progress"]
    losses = [loss for answer in progress for loss in answer["losses"]]
    return found | dict(all=progress, losses=losses)


def written(files, folder):
    for name, content in files.items():
        (folder / name).write_bytes(bytes(content))
    return Transformer.from_pretrained(folder), Tokenizer.from_pretrained(folder)


def test_the_worker_learns_to_tell_a_grammar(node):
    start = START | dict(max_steps=150, learning_rate=0.01)
    found = learned(node, [start, FINISHED], [dict(type="sample", temperature=0), SAMPLE])
    ready, last = found["ready"], found["progress"]
    grammar = StoryGrammar(GRAMMAR)
    assert ready["floor"] == grammar.entropy_bits == 5
    assert last["step"] == len(found["losses"]) == last["max_steps"] == 150
    assert [step for step, _, _ in found["losses"]] == list(range(1, 151))
    assert found["losses"][0][1] > 10 * ready["floor"]
    assert 0 < last["above"] < 0.2, "it came near the line, from above"
    late = found["losses"][-15:]
    above = sum(bits - truth for _, bits, truth in late) / 15 / ready["floor"]
    assert last["above"] == pytest.approx(above)
    assert grammar.log2_prob(found["sample"]["text"]) == -5, "a story of the grammar"


SAMPLE, PROBE = dict(type="sample"), dict(type="probe")


def test_the_same_seed_gives_the_same_run_in_the_worker(node):
    runs = [
        learned(node, [START | dict(max_steps=4, seed=seed), FINISHED])["losses"]
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_without_the_mask_the_loss_goes_below_the_line(node):
    start = START | dict(max_steps=120, learning_rate=0.01, mask=False)
    assert learned(node, [start, FINISHED])["progress"]["above"] < -0.3


def test_pause_step_and_resume(node):
    step, resume = dict(type="step"), dict(type="resume")
    found = learned(
        node,
        [START | dict(max_steps=6, paused=True), READY],
        [step, dict(type="progress", step=1)],
        [step, dict(type="progress", step=2, running=False)],
        [dict(type="settings", learning_rate=0.5), None],
        [step, dict(type="progress", step=3)],
        [resume, None],
        [dict(type="pause"), dict(type="progress", running=False)],
        [PROBE | dict(prompt="In the"), PROBE],
        [resume, FINISHED],
    )
    paused = found["probe"]["step"]
    assert 3 <= paused < 6, "nothing moves while it is paused"
    assert [step for step, _, _ in found["losses"]] == [1, 2, 3, 4, 5, 6]
    rates = {answer["step"]: answer["learning_rate"] for answer in found["all"]}
    assert rates[3] > 10 * rates[2], "a rate that was set while it was paused"


def test_a_grammar_is_described_and_the_machine_measured(node):
    message = dict(type="grammar", text=GRAMMAR)
    told = node("learner", [[message, dict(type="grammar")]])[0]
    assert told["entropyBits"] == 5 and told["longest"] == 14 and told["problem"] == ""
    assert told["speed"] > 1e7, "operations per second"


def of_ids(probe):
    return {bar["id"]: bar["probability"] for bar in probe["bars"]}


def test_positions_are_switched_off_for_the_speaker_too(node):
    "Without them, one layer hears nothing of the order of the words before the last."
    answers = node(
        "learner",
        [
            [START | dict(paused=True, num_layers=1), READY],
            [PROBE | dict(prompt="In the evening it", count=30), PROBE],
            [PROBE | dict(prompt="In evening the it", count=30), PROBE],
            [dict(type="settings", rope=False), None],
            [PROBE | dict(prompt="In the evening it", count=30), PROBE],
            [PROBE | dict(prompt="In evening the it", count=30), PROBE],
            [dict(type="download"), dict(type="error")],
        ],
    )
    one, other, same, as_well = (of_ids(answer) for answer in answers[1:5])
    assert one != pytest.approx(other, rel=1e-3)
    assert same == pytest.approx(as_well, rel=1e-4)
    assert "no model without positions" in answers[5]["message"]


@pytest.fixture(scope="module")
def downloaded(node, tmp_path_factory):
    "A trained model's folder, opened by Python, and what the page said of one text."
    told = "In the evening it was"
    found = learned(
        node,
        [START | dict(max_steps=40), FINISHED],
        [PROBE | dict(prompt=told, count=100), PROBE],
        [dict(type="download"), dict(type="download")],
    )
    folder = tmp_path_factory.mktemp("downloaded")
    files = found["download"]["files"]
    return found, folder, told, *written(files, folder)


def assert_same_beliefs(probe, model, tokenizer, told):
    logits = model(torch.tensor([[0, *tokenizer.encode(told)]]))[0, -1]
    expected = logits.double().softmax(-1)
    for bar in probe["bars"]:
        assert bar["probability"] == pytest.approx(expected[bar["id"]].item(), abs=1e-5)
        assert bar["text"] == (tokenizer.decode([bar["id"]]) if bar["id"] else "")
    truth = {true["text"]: true["probability"] for true in probe["truth"]}
    assert truth == {f" {word}": 0.25 for word in ("sunny", "rainy", "cloudy", "windy")}


@torch.no_grad()
def test_python_opens_what_the_page_has_trained(node, downloaded):
    found, _, told, model, tokenizer = downloaded
    assert_same_beliefs(found["probe"], model, tokenizer, told)
    assert len(found["probe"]["bars"]) == found["ready"]["words"] + 1
    assert model.config.vocab_size == tokenizer.vocab_size
    archive = zipfile.ZipFile(io.BytesIO(bytes(found["download"]["zip"])))
    assert archive.testzip() is None
    for name, content in found["download"]["files"].items():
        assert archive.read(f"stories/{name}") == bytes(content)


def test_ids_of_stories_are_the_pages(node, downloaded):
    _, folder, _, model, tokenizer = downloaded
    node("tokenizer", json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    grammar, known = StoryGrammar(GRAMMAR), downloaded[0]["ready"]["words"]
    for seed in range(200):
        story = grammar.sample(np.random.default_rng(seed))
        ids = tokenizer.encode(story)
        assert ids == node("encode", story) and max(ids) <= known
        assert len(ids) < model.config.context_length


@torch.no_grad()
def test_a_model_trained_in_python_goes_on_in_the_page(node, downloaded, tmp_path):
    "With weights that are different in every row, as Python has them."
    _, folder, told, _, tokenizer = downloaded
    config = TransformerConfig(tokenizer.vocab_size, 30, 24, 1, 2, d_ff=32, rope_theta=100.0)
    torch.manual_seed(0)
    model = Transformer(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    files = {path.name: list(path.read_bytes()) for path in tmp_path.iterdir()}
    load = START | dict(type="load", files=files, paused=True, max_steps=60)
    found = learned(
        node,
        [load, READY],
        [PROBE | dict(prompt=told, count=1000), PROBE],
        [dict(type="resume"), FINISHED],
    )
    assert found["ready"]["config"] == config.__dict__
    assert_same_beliefs(found["probe"], model, tokenizer, told)
    assert found["losses"][-1][1] < 0.7 * found["losses"][0][1]


def refusal(node, message):
    answer = node("learner", [[message, dict(type="error")]])[0]
    assert answer["type"] == "error"
    return answer["message"]


def test_what_the_worker_refuses(node, downloaded):
    _, folder, _, _, _ = downloaded
    files = {path.name: list(path.read_bytes()) for path in folder.iterdir()}
    load = START | dict(type="load")
    config = json.loads(bytes(files["config.json"]))
    wide = list(json.dumps(config | dict(d_model=64)).encode())
    for message, words in (
        (dict(type="dance"), "There is no message of type dance."),
        (START | dict(grammar="In the"), "grammar, line 1: "),
        (START | dict(num_heads=3), "3 heads cannot share a width of 32"),
        (load | dict(files={}), "The folder has no config.json"),
        (load | dict(files=files | {"tokenizer.json": [1]}), "tokenizer.json is damaged"),
        (
            load | dict(files=files | {"config.json": wide}),
            "do not fit config.json: token_embeddings",
        ),
        (load | dict(files=files | {"model.safetensors": [0] * 9}), "is truncated"),
    ):
        assert words in refusal(node, message)


def test_the_worker_is_one_module(tmp_path):
    "As JupyterLab starts it: nothing beside it, and no two files with a name in common."
    path = tmp_path / "worker.mjs"
    path.write_text(one_module("train-worker.js"), encoding="utf-8")
    assert "import " not in path.read_text(encoding="utf-8").replace("// import", "")
    done = subprocess.run(["node", "--check", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_benchmark_finds_what_it_imports(tmp_path):
    folder = shutil.copytree(test_web.WEB, tmp_path / "web")
    for path in (test_web.WEB.parent.parent / "benchmarks").glob("browser_*.js"):
        shutil.copy(path, folder)
    code = "console.log(Object.keys(await import(process.argv[1])).join())"
    for name, found in (("training", "beside,learn,profile"), ("generation", "generate")):
        module = (folder / f"browser_{name}.js").as_uri()
        words = ["node", "--input-type=module", "-e", code, module]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stdout == f"{found}\n", done.stderr
