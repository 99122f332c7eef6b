"""The page's modules, run by Node, against the package: logits, ids, distributions, texts, and
what they say to bad input."""

import json
import math
import selectors
import shutil
import subprocess
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lm336.errors import END_OF_TEXT, InputError
from lm336.generation import SamplingConfig, generate_stream, next_token_probs
from lm336.grammar import write_stories
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig
from lm336.widgets import attention_answer, sampler_answers

from .test_bpe import hostile

WEB = Path(__file__).parent.parent / "lm336/web"
LOOPS = "kernels.js", "kernels-wasm.js"
RUNTIME = "model.js", "sampling.js", "generation.js", "tokenizer.js", "worker.js", *LOOPS
DEMO = TransformerConfig(4096, 512, 160, 4, 5, tie_embeddings=True)
ODD = TransformerConfig(37, 9, 12, 2, 3, d_ff=7, rope_theta=500.0, norm_eps=1e-3)
SPECIALS = [END_OF_TEXT, "<|a|>", "<|a|><|b|>", "(*)"]


class Refused(Exception):
    "An error's sentence in JavaScript."


class Node:
    "A Node process with the modules: `node(command, argument)` is the command's result."

    def __init__(self):
        program = shutil.which("node")
        if not program:
            pytest.skip("Node is not installed")
        self.tokenizer = None
        self.process = subprocess.Popen(
            [program, Path(__file__).parent / "web_node.mjs"],
            text=True,
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.asks, self.answers = self.process.stdin, self.process.stdout
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(self.answers, selectors.EVENT_READ)

    def __call__(self, command, argument=None, timeout=120):
        self.asks.write(json.dumps([command, argument]) + "\n")
        self.asks.flush()
        assert self.waiting.select(timeout), (
            f"Node gave no answer to {command} within {timeout} s"
        )
        answer = json.loads(self.answers.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]


@pytest.fixture(scope="module")
def node():
    node = Node()
    yield node
    node.asks.close()
    node.process.wait(30)


def sharp_model(config, seed=0):
    """Random weights rounded to float16, in float32: norms and logits that are not flat. (Not
    sharper either: in float32 PyTorch itself would be further than 1e-4 from float64.)"""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for layer in model.layers:
            for norm in (layer.ln1, layer.ln2):
                norm.weight.uniform_(0.5, 1.5)
        model.ln_final.weight.mul_(10 if config.tie_embeddings else 2)
    return model.half().float()


def save(model, folder):
    """Weights in float16, and the model with these weights in float64. The page computes the
    same everywhere, and so does this oracle, within 1e-13: what they agree on does not hang on
    how a processor rounds float32."""
    model.half().save_pretrained(folder)
    return model.double()


def as_json(tokenizer):
    "What stands in its tokenizer.json."
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return save(sharp_model(DEMO), folder), folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    write_stories(path, 200_000, seed=1)
    strange = "naïve café 中文中文 🙂🙂 they're \n\n 100 undefined undefined "
    with open(path, "ab") as file:
        file.write(50 * (strange + "x\x85\x85\x85y!\ufeff!\ufeff").encode())
    return Tokenizer.train(path, 1000, SPECIALS)


def test_code_is_small_and_whole():
    size = sum((WEB / name).stat().st_size for name in RUNTIME)
    assert size <= 50_500, f"{size} bytes: the page's runtime is meant to stay small"
    for name in RUNTIME:  # nothing from outside: every import is of a file beside it
        for target in regex.findall(
            r'(?:from|import)\s*\(?"([^"]+)"', (WEB / name).read_text(encoding="utf-8")
        ):
            assert target.startswith("./") and (WEB / target).is_file()


# ---- the model


@torch.inference_mode()
def test_logits_of_fifty_prompts(node, demo):
    model, folder = demo
    progress = node("load", str(folder))
    total = 2 * sum(p.numel() for p in model.parameters())
    assert progress[0] == [0, total] and progress[-1] == [total, total]
    generator, worst = torch.Generator().manual_seed(0), 0
    lengths = [1, 2, 3, 512, *torch.randint(1, 100, (46,), generator=generator).tolist()]
    for length in lengths:
        ids = torch.randint(4096, (length,), generator=generator)
        expected = model(ids[None])[0, -1]
        found = doubles(node("last", ids.tolist()))
        assert expected.std() > 1, "logits this flat would prove little"
        worst = max(worst, (found - expected).abs().max().item())
    print(f"largest difference {worst:.1e}")
    assert worst <= 1e-4


@torch.inference_mode()
def test_float32_weights_give_the_same_logits(node, demo, tmp_path):
    "The loop that reads float16 does the same sums as the one that reads float32."
    model, folder = demo
    weights = load_file(folder / "model.safetensors")
    save_file({name: x.float() for name, x in weights.items()}, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    logits = []
    for each in (folder, tmp_path):
        node("load", str(each))
        logits.append(node("last", [5, 6, 7]))
    assert logits[0] == logits[1]


@torch.inference_mode()
@pytest.mark.parametrize("tied", [True, False])
def test_every_position_of_a_model_with_odd_shapes(node, tmp_path, tied):
    model = save(
        sharp_model(TransformerConfig(**{**ODD.__dict__, "tie_embeddings": tied})), tmp_path
    )
    node("load", str(tmp_path))
    ids = torch.randint(37, (9,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        doubles(node("logits", ids.tolist())), model(ids[None])[0], atol=1e-5, rtol=0
    )


def test_a_prompt_that_begins_like_the_last_is_read_on(node, demo):
    model, folder = demo
    node("load", str(folder))
    for ids in ([5, 6, 7, 8], [5, 6, 9], [5, 6, 9], [5], [7, 7], [7, 7, 7, 5]):
        with torch.inference_mode():
            expected = model(torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(doubles(node("last", ids)), expected, atol=1e-4, rtol=0)


def told(node, ids, **settings):
    "The page's stream of the loaded model."
    return node("generate", dict(ids=ids, plain=True, **settings))


@pytest.mark.parametrize(
    "how",
    [dict(temperature=0), dict(seed=3), dict(seed=3, top_k=5, repetition_penalty=1.3)],
    ids=str,
)
def test_past_the_context_the_page_tells_what_python_tells(node, tmp_path, how):
    "A context of nine is outgrown again and again: the same ids, logits, probabilities."
    small, config = save(sharp_model(ODD), tmp_path), SamplingConfig(**how)
    node("load", str(tmp_path))
    for ids in ([1], [1] * 8, [3] * 9):
        ours = list(generate_stream(small, ids, 60, config))
        theirs = told(node, ids, max_new_tokens=60, **how)
        assert [token["id"] for token in theirs] == [token.id for token in ours] and len(
            ours
        ) == 60
        for mine, its in zip(ours, theirs):
            torch.testing.assert_close(doubles(its["logits"]), mine.logits, atol=1e-4, rtol=0)
            assert its["logprob"] == pytest.approx(mine.logprob, abs=1e-4)
            assert not its["cut"]


def test_greedy_text_across_the_end_of_a_long_context(node, demo):
    model, folder = demo
    node("load", str(folder))
    prompt = torch.randint(4096, (490,), generator=torch.Generator().manual_seed(2)).tolist()
    for ids in (prompt, prompt[:5]):
        found = told(node, ids, max_new_tokens=60, temperature=0)
        assert ids + [token["id"] for token in found] == model.generate(ids, 60, temperature=0)


HOW = [
    dict(),
    dict(temperature=0.8),
    dict(top_k=5),
    dict(top_p=0.9),
    dict(min_p=0.1),
    dict(repetition_penalty=1.5),
    dict(temperature=0, repetition_penalty=0.8),
    dict(temperature=0.7, top_k=8, top_p=0.8, min_p=0.05, repetition_penalty=1.2),
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_the_same_seed_tells_the_same_story(node, tmp_path, how):
    "With few tokens: among many, one number in ten thousand falls too near to a border."
    model = save(sharp_model(ODD), tmp_path)
    node("load", str(tmp_path))
    for seed in (0, 7, 2**32 + 5):
        found = told(node, [1, 2, 3], max_new_tokens=40, seed=seed, **how)
        assert [1, 2, 3] + [token["id"] for token in found] == model.generate(
            [1, 2, 3], 40, seed=seed, **how
        )


LETTERS = [*(a + b for a in "abé" for b in ("", *"abé")), "aba", "bab"]


@given(
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, len(LETTERS) + 1), min_size=1, max_size=9),
    st.booleans(),
)
@settings(
    max_examples=200, deadline=None, derandomize=True
)  # both sides compute the same everywhere
def test_a_text_ends_before_its_stop_strings_as_in_python(node, letters, stops, ids, halves):
    "Token by token the same ids, texts and cuts; half characters among the tokens or not."
    model, folder, whole, broken = letters
    tokenizer = broken if halves else whole
    config = SamplingConfig(temperature=0, repetition_penalty=1.5, stop_strings=stops)
    node("load", str(folder))
    take(node, tokenizer)
    stream = generate_stream(model, ids, 30, config, tokenizer)
    ours = [(token.id, token.text, token.cut) for token in stream]
    theirs = node("generate", dict(ids=ids, max_new_tokens=30, **vars(config)))
    assert [(token["id"], token["text"], token["cut"]) for token in theirs] == ours


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    "A model, and two tokenizers: of one to three letters, and with half characters."
    folder, size = tmp_path_factory.mktemp("letters"), 300
    model = sharp_model(TransformerConfig(size, 9, 12, 2, 3, d_ff=7))
    model.lm_head.weight.data[len(LETTERS) + 2 :] = -abs(
        model.lm_head.weight.data[len(LETTERS) + 2 :]
    )
    model = save(model, folder)
    singles = [bytes([i]) for i in range(256)]

    def of(*first):
        tokens = [*first, *(byte for byte in singles if byte not in first)]
        return Tokenizer(dict(enumerate(tokens)), [])

    return (
        model,
        folder,
        of(*(text.encode() for text in LETTERS)),
        of(*(text.encode() for text in LETTERS), b"\xc3", b"\xa9"),
    )


def test_files_that_do_not_fit(node, demo, tmp_path):
    _, folder = demo
    with pytest.raises(
        Refused, match="config.json could not be downloaded: the server answered 404"
    ):
        node("load", str(tmp_path))
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(Refused, match="config.json is damaged: it is not JSON"):
        node("load", str(tmp_path))
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(Refused, match="model.safetensors could not be downloaded"):
        node("load", str(tmp_path))
    for part in (b"", b"<html>", (folder / "model.safetensors").read_bytes()[:1_000_000]):
        (tmp_path / "model.safetensors").write_bytes(part)
        with pytest.raises(Refused, match="model.safetensors is truncated"):
            node("load", str(tmp_path))
    Transformer(ODD).bfloat16().save_pretrained(tmp_path)
    with pytest.raises(Refused, match="no file of float16 or float32 weights"):
        node("load", str(tmp_path))
    Transformer(ODD).half().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**ODD.__dict__, "d_ff": 8}))
    with pytest.raises(
        Refused,
        match="does not fit config.json: layers.0.ffn.w1.weight should have 96 numbers",
    ):
        node("load", str(tmp_path))
    for wrong, words in (
        (dict(context_length=10**12), "no room for the 1000000000000 tokens"),
        (dict(num_layers=10**9), "no room for"),
        (dict(context_length=None), "context_length is null"),
        (dict(vocab_size="many"), "vocab_size is many, not a whole number"),
        (dict(num_heads=5), "num_heads is 5"),
        (dict(d_model=0), "d_model is 0"),
        (dict(rope_theta=-1), "rope_theta is -1"),
        (dict(norm_eps="x"), "norm_eps is x"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**ODD.__dict__, **wrong}))
        with pytest.raises(Refused, match=words):
            node("load", str(tmp_path))
    for none in ("null", "[]", "7"):
        (tmp_path / "config.json").write_text(none)
        with pytest.raises(Refused, match="config.json is damaged: vocab_size is undefined"):
            node("load", str(tmp_path))
    node("load", str(folder))
    with pytest.raises(Refused, match="id 4096 is not in the vocabulary of 4096"):
        node("last", [4096])


# ---- the sampler


def test_darts_are_those_of_torch(node):
    for seed in (0, 1, 12345, 2**32 - 1, 2**40 + 3):
        assert (
            node("uniforms", dict(seed=seed, count=2000))
            == torch.rand(2000, generator=torch.Generator().manual_seed(seed)).tolist()
        )


SETTINGS = [
    (t, k, p)
    for t in (0, 0.3, 1, 1.7)
    for k in (None, 1, 5, 40, 300, 5000)
    for p in (None, 0.05, 0.5, 0.95, 1)
]


@pytest.mark.parametrize("scale", [0.1, 3, 50])
def test_distribution(node, scale):
    logits = scale * torch.randn(1000, generator=torch.Generator().manual_seed(3))
    for temperature, k, p in SETTINGS:
        expected = next_token_probs(logits.double(), SamplingConfig(temperature, k, p))
        how = dict(logits=logits.tolist(), temperature=temperature, top_k=k, top_p=p)
        ids, found = node("distribution", how)
        assert found == sorted(found, reverse=True) and len(set(ids)) == len(ids)
        whole = torch.zeros(1000, dtype=torch.float64).scatter_(
            0, torch.tensor(ids), doubles(found)
        )
        torch.testing.assert_close(whole, expected, atol=1e-6, rtol=1e-4)
        assert (whole > 0).equal(expected.float() > 0), "another set of tokens can be drawn"
        few, likeliest = node("distribution", {**how, "count": 7})
        assert (few, likeliest) == (ids[:7], found[:7])


def test_equal_logits_favour_the_lower_id(node):
    logits = [0.0, 2.0, 1.0, 2.0, 1.0, 1.0] + [-1.0] * 94
    assert node("distribution", dict(logits=logits, count=5))[0] == [1, 3, 2, 4, 5]
    assert node("distribution", dict(logits=logits, top_k=3))[0] == [1, 3, 2]
    assert (
        sorted(node("distribution", dict(logits=logits, top_p=0.3))[0])
        == next_token_probs(torch.tensor(logits), SamplingConfig(top_p=0.3))
        .nonzero()[:, 0]
        .tolist()
    )
    assert node("sample", dict(logits=logits, uniform=0.999, temperature=0)) == 1


MODES = [
    dict(),
    dict(temperature=0),
    dict(temperature=0.5),
    dict(top_k=1),
    dict(top_k=3),
    dict(top_p=0.5),
    dict(top_p=1e-46),
    dict(temperature=1e-46),
    dict(temperature=5e-324),
    dict(temperature=1e300),
    dict(temperature=1.3, top_k=3, top_p=0.9),
    dict(min_p=0.3),
    dict(repetition_penalty=1.3),
    dict(temperature=0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_cannot_be_drawn_from_is_said(node, mode):
    "Python's rule, in every mode: NaN, an infinite score, or no score at all."
    for broken in (
        [1, "NaN", 2, 0],
        ["NaN", 1, 2, 0],
        [1, "Infinity", 2, 0],
        ["-Infinity"] * 4,
    ):
        for question in ("distribution", "sample"):
            with pytest.raises(
                Refused, match="cannot be drawn from: the largest is -?(NaN|Infinity)"
            ):
                node(question, dict(logits=broken, uniform=0.5, **mode))
    for logits in (
        [1, 3, 2, 0],
        ["-Infinity", 1, "-Infinity", 3],
        [2, 3, 3, 3],
    ):  # two that can be, and a tie
        ids, found = node("distribution", dict(logits=logits, **mode))
        expected = next_token_probs(
            torch.tensor([float(x) for x in logits]), SamplingConfig(**mode)
        )
        if (
            logits[1:] != [3, 3, 3] or "top_k" not in mode
        ):  # of a tie, PyTorch's top-k takes any
            assert torch.zeros(4).double().scatter_(
                0, torch.tensor(ids), doubles(found)
            ).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        assert node("sample", dict(logits=logits, uniform=0.0, **mode)) in ids


def test_the_penalty_is_pythons(node):
    logits, seen = (
        3 * torch.randn(40, generator=torch.Generator().manual_seed(3)),
        [1, 5, 7, 39, 5],
    )
    mask = torch.zeros(40, dtype=torch.bool)
    mask[seen] = True
    for penalty in (0.5, 1.0, 1.3, 4.0):
        expected = next_token_probs(
            logits.double(), SamplingConfig(repetition_penalty=penalty), mask
        )
        ids, found = node(
            "distribution", dict(logits=logits.tolist(), seen=seen, repetition_penalty=penalty)
        )
        torch.testing.assert_close(
            torch.zeros(40).double().scatter_(0, torch.tensor(ids), doubles(found)),
            expected,
            atol=1e-6,
            rtol=1e-4,
        )


@pytest.mark.parametrize("simd", [True, False], ids=["WebAssembly", "JavaScript"])
def test_the_sum_that_makes_scores_probabilities(node, simd):
    "Few numbers and many; also where most of them are next to nothing."
    for n, scale in ((1, 1), (3, 1), (102, 5), (4096, 2), (4096, 100)):
        numbers = scale * torch.randn(n, generator=torch.Generator().manual_seed(n))
        expected = numbers.double().logsumexp(0).item()
        found = node("logSum", dict(numbers=numbers.tolist(), simd=simd))
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        dict(temperature=-1),
        dict(temperature="hot"),
        dict(top_k=0),
        dict(top_k=1.5),
        dict(top_p=0),
        dict(top_p=1.1),
        dict(min_p=-1),
        dict(min_p=2),
        dict(repetition_penalty=0),
        dict(seed=1.5),
        dict(stop_token="x"),
        dict(stop_strings=[""]),
        dict(stop_strings=[7]),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_in_pythons_words(node, bad):
    with pytest.raises(InputError) as ours:
        SamplingConfig(**bad)
    words = str(ours.value).split(": ", 1)[1].replace(", or None", "")
    with pytest.raises(Refused, match=words) as theirs:
        node("distribution", dict(logits=[1.0, 2.0], **bad))
    assert str(theirs.value).startswith(f"{[*bad][0]} is ")


# ---- the worker


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tokenizer.save_pretrained(folder)
    return save(
        sharp_model(TransformerConfig(1000, 64, 32, 2, 2, tie_embeddings=True)), folder
    ), folder


def ask(node, *send, until="done", **more):
    "The worker's answers, up to the first of the type `until`, or to an error."
    answers = node("worker", dict(send=send, until=until, **more))
    assert answers[-1]["type"] == until, answers[-1]
    return answers


def loaded(node, folder):
    return ask(node, dict(type="load", url=f"file://{folder}", tag=9), until="ready")


def test_worker_loads_and_answers_with_the_tag(node, run):
    model, folder = run
    *progress, ready = loaded(node, folder)
    assert {answer["type"] for answer in progress} == {"progress"} and progress[-1][
        "loaded"
    ] == progress[-1]["total"]
    assert ready == dict(type="ready", config=model.config.__dict__, vocabSize=1000, tag=9)


def test_worker_fails_in_one_sentence_and_tries_again(node, run, tmp_path):
    _, folder = run
    shutil.copy(folder / "tokenizer.json", tmp_path)
    assert ask(node, dict(type="load", url=f"file://{tmp_path}"), until="error") == [
        dict(
            type="error",
            message="config.json could not be downloaded: the server answered 404.",
        )
    ]
    assert ask(node, dict(type="generate", tag=1), until="error") == [
        dict(type="error", message="The model is not loaded yet.", tag=1)
    ]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    loaded(node, tmp_path)


def test_worker_distribution(node, run, tokenizer):
    model, folder = run
    loaded(node, folder)
    for prompt in ("Once upon", "Once upon a time", ""):
        ids = tokenizer.encode(prompt) or [tokenizer.end_of_text_id]
        with torch.inference_mode():
            expected, order = next_token_probs(
                model(torch.tensor([ids]))[0, -1], SamplingConfig(0.7, 20)
            ).topk(5)
        [answer] = ask(
            node,
            dict(type="distribution", prompt=prompt, temperature=0.7, top_k=20, count=5),
            until="bars",
        )
        assert [bar["id"] for bar in answer["bars"]] == order.tolist()
        assert [bar["probability"] for bar in answer["bars"]] == pytest.approx(
            expected.tolist(), abs=1e-5
        )
        assert [bar["text"] for bar in answer["bars"]] == [
            tokenizer.decode([i]) for i in order.tolist()
        ]


def test_worker_attention(node, run, tokenizer):
    model, folder = run
    loaded(node, folder)
    for prompt in ("Once upon a time", "Once", ""):
        [answer] = ask(node, dict(type="attention", prompt=prompt), until="attention")
        expected = attention_answer(model, tokenizer, dict(type="attention", prompt=prompt))
        assert answer["tokens"] == expected["tokens"]
        assert answer["weights"] == pytest.approx(expected["weights"], abs=1e-5)


def test_worker_answers_the_newest_question_alone(node, run):
    _, folder = run
    loaded(node, folder)
    many = [
        dict(type="distribution", ids=list(range(first, first + 30)), tag=first)
        for first in (100, 200, 300)
    ]
    [newest] = ask(node, *many, until="bars")
    assert newest["tag"] == 300
    later = ask(node, dict(type="generate", ids=[1], max_new_tokens=60, tag="later"))
    assert {answer["tag"] for answer in later} == {"later"}, "an older question was answered"
    assert ask(node, many[2], until="bars") == [newest], "the questions disturbed one another"


def test_worker_cancels_a_download(node, run):
    load = dict(type="load", url=f"file://{run[1]}")
    answers = ask(
        node, load | dict(tag=1), dict(type="cancel"), load | dict(tag=2), until="ready"
    )
    assert {answer["tag"] for answer in answers if answer["type"] != "progress"} == {2}
    answers = ask(node, load | dict(tag=1), load | dict(tag=2), until="ready")
    assert answers[-1]["tag"] == 2


def test_worker_generates_what_python_does(node, run, tokenizer):
    model, folder = run
    loaded(node, folder)
    prompt, how = tokenizer.encode("Once upon a time"), dict(temperature=0.8, top_k=8)
    request = dict(
        type="generate",
        prompt="Once upon a time",
        max_new_tokens=90,
        temperature=0.8,
        top_k=8,
        seed=3,
    )
    *tokens, done = ask(node, request)
    ids, stop = [answer["id"] for answer in tokens], tokenizer.end_of_text_id
    expected = model.generate(prompt, 90, seed=3, stop_token=stop, **how)[len(prompt) :]
    assert ids == [i for i in expected if i != stop]
    assert (
        "".join(answer["text"] for answer in tokens) == done["text"] == tokenizer.decode(ids)
    )
    assert (done["tokens"], done["ended"], done["cancelled"]) == (
        len(ids),
        stop in expected,
        False,
    ) and done["tokensPerSecond"] > 0
    with torch.inference_mode():
        logits = model(torch.tensor([prompt]))[0, -1]
    assert tokens[0]["logprob"] == pytest.approx(
        logits.log_softmax(-1)[ids[0]].item(), abs=1e-3
    )
    assert len(tokens[0]["bars"]) == 8 and sum(
        bar["probability"] for bar in tokens[0]["bars"]
    ) == pytest.approx(1)
    assert ask(node, dict(type="generate", ids=prompt, max_new_tokens=0))[0]["tokens"] == 0


@pytest.mark.parametrize(
    "how",
    [
        dict(stop_strings=["e", "th"]),
        dict(stop_strings=" the"),
        dict(repetition_penalty=1.4, min_p=0.02),
    ],
    ids=str,
)
def test_worker_and_panel_send_the_same(node, run, tokenizer, how):
    "Message for message, from JavaScript and from Python, but for rounding and speed."
    model, folder = run
    loaded(node, folder)
    request = dict(
        type="generate", prompt="Once upon a time", max_new_tokens=80, seed=2, top_k=8, **how
    )
    theirs, ours = ask(node, request), list(sampler_answers(model, tokenizer, request))
    assert [set(answer) for answer in theirs] == [set(answer) for answer in ours]
    for its, mine in zip(theirs, ours):
        for name in ("type", "id", "text", "cut", "tokens", "ended", "cancelled"):
            assert its.get(name) == mine.get(name)
        assert its.get("logprob") == pytest.approx(mine.get("logprob"), abs=1e-3)
        assert [bar["id"] for bar in its.get("bars", [])] == [
            bar["id"] for bar in mine.get("bars", [])
        ]
    text, stops = theirs[-1]["text"], SamplingConfig(**how).stop_strings
    assert not any(stop in text for stop in stops) and (
        theirs[-1]["ended"] or len(theirs) == 81
    )


def test_worker_and_panel_read_the_same_and_go_on_alike(node, run, tokenizer):
    "From the middle of a text, also of one that has outgrown the context of 64."
    model, folder = run
    loaded(node, folder)
    first = dict(prompt="Once upon a time, 中文", temperature=1.2, seed=2, top_k=9)
    long = dict(first, type="generate", max_new_tokens=150)
    *told, _ = sampler_answers(model, tokenizer, long)
    ids = [token["id"] for token in told]
    for after in ([], ids[:20], ids[:60], ids):
        request = dict(first, after=after, max_new_tokens=4)
        for kind, until in (("read", "read"), ("distribution", "bars"), ("generate", "done")):
            theirs = ask(node, dict(request, type=kind), until=until)
            ours = list(sampler_answers(model, tokenizer, dict(request, type=kind)))
            if kind == "read":
                theirs, ours = theirs[0]["tokens"], ours[0]["tokens"]
            for its, mine in zip(theirs, ours, strict=True):
                assert its.keys() == mine.keys()
                assert (its.get("id"), its.get("text")) == (mine.get("id"), mine.get("text"))
                assert its.get("logprob") == pytest.approx(mine.get("logprob"), abs=1e-3)
                bars = [[bar["id"] for bar in each.get("bars", [])] for each in (its, mine)]
                assert bars[0] == bars[1]
    read = ask(node, dict(first, type="read", after=ids), until="read")[0]["tokens"]
    start = len(tokenizer.encode(first["prompt"]))
    for token in [*told, *read[1:]]:
        cut_off = token["logprob"] < -3 and len(token["bars"]) == 9
        assert cut_off or token["id"] in [bar["id"] for bar in token["bars"]]
    assert [token["logprob"] for token in read[start:]] == pytest.approx(
        [token["logprob"] for token in told], abs=1e-3
    )


def test_worker_stops_at_the_end_of_the_text(node, run, tokenizer, tmp_path):
    _, folder = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = Transformer(ODD)  # the tokenizer's first ids suffice: one of them ends the text
    data = as_json(tokenizer)
    data["model"]["vocab"] = {
        token: i for token, i in data["model"]["vocab"].items() if i < 37
    }
    data["model"]["merges"], data["added_tokens"] = (
        [],
        [dict(data["added_tokens"][0], content=END_OF_TEXT, id=36)],
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    save(model, tmp_path)
    loaded(node, tmp_path)
    done = ask(node, dict(type="generate", max_new_tokens=5000, seed=1))[-1]
    assert done["ended"] and done["tokens"] < 5000 and "endoftext" not in done["text"]


@pytest.mark.parametrize(
    "how",
    [dict(temperature=0), dict(), dict(temperature=1.5, top_k=50), dict(top_p=0.9)],
    ids=str,
)
def test_worker_never_draws_ids_that_the_tokenizer_lacks(node, run, tokenizer, tmp_path, how):
    "A model with more rows than there are tokens, and those rows the likeliest."
    model = sharp_model(TransformerConfig(1300, 64, 32, 2, 2))
    model.lm_head.weight.data[1000:] = 30 * model.lm_head.weight.data[:300]
    model = save(model.half(), tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert loaded(node, tmp_path)[-1]["vocabSize"] == 1000
    prompt, stop = tokenizer.encode("Once upon a time"), tokenizer.end_of_text_id
    expected = model.generate(prompt, 80, seed=5, stop_token=stop, vocab_size=1000, **how)[
        len(prompt) :
    ]
    assert max(model.generate(prompt, 80, seed=5, **how)) >= 1000, (
        "this test would prove nothing"
    )
    *tokens, done = ask(
        node,
        dict(type="generate", prompt="Once upon a time", max_new_tokens=80, seed=5, **how),
    )
    assert [answer["id"] for answer in tokens] == [i for i in expected if i != stop]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt]))[0, -1, :1000]
    assert tokens[0]["logprob"] == pytest.approx(
        logits.log_softmax(-1)[expected[0]].item(), abs=1e-3
    )
    [answer] = ask(
        node,
        dict(type="distribution", prompt="Once upon a time", count=10, **how),
        until="bars",
    )
    probabilities, order = next_token_probs(logits, SamplingConfig(**how)).topk(
        len(answer["bars"])
    )
    assert [bar["id"] for bar in answer["bars"]] == order.tolist() and [
        bar["probability"] for bar in answer["bars"]
    ] == pytest.approx(probabilities.tolist(), abs=1e-5)


def test_worker_says_what_is_broken(node, run, tokenizer, tmp_path):
    "Weights that are no numbers, a tokenizer of another model; then it goes on."
    _, folder = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for wrong in (math.nan, math.inf, -math.inf):
        weights = load_file(folder / "model.safetensors")
        weights["layers.1.attn.q_proj.weight"][3, 4] = wrong
        save_file(weights, tmp_path / "model.safetensors")
        name = "layers.1.attn.q_proj.weight"
        words = f"model.safetensors is damaged: {name} holds a number that is not finite."
        assert refused(node, tmp_path) == words
    save(sharp_model(TransformerConfig(999, 64, 32, 2, 2, tie_embeddings=True)), tmp_path)
    assert (
        refused(node, tmp_path)
        == "tokenizer.json has 1000 tokens, the model only 999: they do not belong together."
    )
    assert (
        ask(node, dict(type="generate"), until="error")[-1]["message"]
        == "The model is not loaded yet."
    )
    loaded(node, folder)
    assert ask(node, dict(type="generate", prompt="Once", max_new_tokens=2))[-1]["tokens"] == 2


def refused(node, folder):
    return ask(node, dict(type="load", url=f"file://{folder}"), until="error")[-1]["message"]


def test_worker_cancels_at_once(node, run):
    loaded(node, run[1])
    request = dict(type="generate", prompt="Once", max_new_tokens=100_000, tag="a", seed=0)
    request["stop_token"] = -1  # it does not end by itself
    *tokens, done = ask(node, request, after=5, then=dict(type="cancel"))
    assert done["cancelled"] and done["tag"] == "a"
    assert 5 <= len(tokens) == done["tokens"] < 100_000
    then = dict(type="distribution", ids=list(range(40)), tag="b")
    *tokens, done, bars = ask(node, request, after=5, then=then, until="bars")
    assert bars["tag"] == "b" and done["type"] == "done" and done["cancelled"]


def test_worker_refuses(node, run):
    loaded(node, run[1])
    for request, words in (
        (dict(type="sing"), "There is no message of type sing."),
        (dict(type="generate", prompt="x" * 100), "reads at most 64"),
        (
            dict(type="generate", temperature=-1),
            "temperature is -1: a finite number of at least 0",
        ),
        (dict(type="distribution", ids=[5000]), "id 5000"),
    ):
        assert words in ask(node, request, until="error")[-1]["message"]
    assert (
        ask(node, dict(type="generate", prompt="Once", max_new_tokens=2))[-1]["tokens"] == 2
    ), "it does not go on after an error"


# ---- the tokenizer


@pytest.fixture(scope="module")
def newer(node):
    "Characters that are letters, numbers or spaces in one Unicode table, not in the other."
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    ours = ["O"] * 0x110000
    for kind, pattern in (("L", r"\p{L}"), ("N", r"\p{N}"), ("S", r"\s")):
        for match in regex.finditer(pattern, "".join(map(chr, codes))):
            ours[ord(match[0])] = kind
    return {
        chr(c) for c, theirs in zip(codes, node("classes"), strict=True) if ours[c] != theirs
    }


def test_tables_differ_only_in_characters_newer_than_one_of_them(newer):
    assert all(unicodedata.category(c) == "Cn" for c in newer)


def take(node, tokenizer):
    "Node's tokenizer becomes this one, unless it is."
    if node.tokenizer is not tokenizer:
        node("tokenizer", as_json(tokenizer))
        node.tokenizer = tokenizer


@given(hostile)
@settings(max_examples=3000, deadline=None)
def test_ids_equal(node, tokenizer, newer, text):
    take(node, tokenizer)
    text = "".join(c for c in text if c not in newer)
    ids = tokenizer.encode(text)
    assert node("encode", text) == ids
    assert node("decode", ids) == text


@given(st.lists(st.integers(0, 999), max_size=12))
@settings(max_examples=500, deadline=None)
def test_any_ids_decode(node, tokenizer, ids):
    take(node, tokenizer)
    expected = tokenizer.decode(ids)
    assert node("decode", ids) == "".join(node("stream", ids)) == expected


def test_texts_that_tell_tokenizers_apart(node, tokenizer):
    take(node, tokenizer)
    for text in (
        "",
        " ",
        "\ufeffa \ufeff b",
        "a\x85\x85b",
        "!\ufeff !\ufeff",
        "a\x1c\x1cb",
        "  x",
        "x  \n",
        "they'll they'LL",
        "<|a|><|b|><|a|>",
        "<|endoftext",
        "(*)(**)",
        "undefinedundefined",
        "\u2028\u2029 \u3000 x",
        "½²Ⅷ௧",
        "e\u0301",
        "👩‍👩‍👧 🇩🇪",
        "a" * 3000,
        "中文🙂" * 100,
    ):
        ids = tokenizer.encode(text)
        assert node("encode", text) == ids, repr(text)
        assert node("decode", ids) == text
    with pytest.raises(Refused, match="half a character"):
        node("encode", "half \ud800 a character")
    with pytest.raises(Refused, match="id 1000 is not in the vocabulary of 1000"):
        node("decode", [1000])


def test_tokenizers_that_are_damaged(node, tokenizer):
    "One sentence each, and at once: an id of a hundred million makes no list as long as that."
    whole = as_json(tokenizer)

    def changed(**changes):
        return {**whole, "model": {**whole["model"], **changes}}

    def added(**changes):
        return {
            **whole,
            "added_tokens": [{**token, **changes} for token in whole["added_tokens"]],
        }

    vocab = whole["model"]["vocab"]
    for damaged, words in (
        (None, "no byte-level BPE"),
        ({}, "no byte-level BPE"),
        (changed(type="WordPiece"), "no byte-level BPE"),
        (changed(vocab={**vocab, "abc": 10**8}), "one has the id 100000000"),
        (added(id=10**8), "one has the id 100000000"),
        (changed(vocab={**vocab, "abc": -1}), "one has the id -1"),
        (changed(vocab={**vocab, "abc": "x"}), "one has the id x"),
        (changed(vocab={**vocab, "a\nc": 1000}), "stands for no byte"),
        (
            changed(vocab={token: i for token, i in vocab.items() if i != 500}),
            "no token has the id 500|one has the id 999",
        ),
        (changed(vocab=None), "tokenizer.json is damaged"),
        (changed(merges=None), "tokenizer.json is damaged"),
        (changed(merges=[7]), "tokenizer.json is damaged"),
        ({**whole, "added_tokens": [None]}, "tokenizer.json is damaged"),
    ):
        with pytest.raises(Refused, match=words):
            node("tokenizer", damaged, timeout=60)
    node("tokenizer", whole)
    node.tokenizer = tokenizer
    assert node("encode", "Once upon a time") == tokenizer.encode("Once upon a time"), (
        "it does not go on after an error"
    )


def test_vocabularies_with_their_own_order(node, tmp_path):
    "No special tokens; special tokens that are also plain ones."
    plain = {i: bytes([255 - i]) for i in range(256)}
    for vocab, merges, special in (
        (plain, [], []),
        (plain | {256: b"ab"}, [(b"a", b"b")], ["b", "ab", "\n"]),
    ):
        tokenizer = Tokenizer(vocab, merges, special)
        take(node, tokenizer)
        for text in ("abba ab\nb", "ééab", "\0\xff"):
            assert node("encode", text) == tokenizer.encode(text)


SPECIAL_TEXTS = [
    "|",
    "||",
    ".",
    "\n",
    " ",
    " the",
    "a",
    "ab",
    "aba",
    "<|é|>",
    "naïve",
    "中",
    "🙂",
    "\0",
    "\ufeff",
    "\\",
    "(*)",
    "[a-z]+",
    "/",
    "^$",
    "{2}",
    "-",
    "x" * 1000,
    "__proto__",
    "constructor",
    "0",
    "undefined",
]


@given(
    st.lists(st.sampled_from(SPECIAL_TEXTS), max_size=5),
    st.lists(st.sampled_from(SPECIAL_TEXTS) | hostile, max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_every_special_token(node, newer, specials, parts):
    merges = [(b"a", b"b"), (b" ", b"t"), (b"h", b"e"), (b" t", b"he"), (b"ab", b"a")]
    vocab = {i: bytes([i]) for i in range(256)} | {
        256 + i: a + b for i, (a, b) in enumerate(merges)
    }
    tokenizer = Tokenizer(vocab, merges, specials)
    take(node, tokenizer)
    text = "".join(c for c in "".join(parts + specials) if c not in newer)
    ids = tokenizer.encode(text)
    assert node("encode", text) == ids and node("decode", ids) == text
