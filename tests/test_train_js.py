"""Training in the page, run by Node, against PyTorch: every gradient, the losses of a run."""

import math
import random

import pytest
import torch
from torch.nn.functional import cross_entropy, silu

from lm336.adamw import AdamW, clip_grad_norm_
from lm336.loss import token_nats
from lm336.schedule import cosine_schedule
from lm336.transformer import Transformer, TransformerConfig, parameter_shapes

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
    nats = 0
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
    for name, weight in weights.items():
        assert_same(found["gradients"][name], weight.grad, 1e-5)


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
    found = trained(node, config, [stories], weights, used=used)
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
    assert found["parts"] >= (50 if simd else 250), "a batch is worked on in parts"
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


def test_a_run_that_has_blown_up_says_so(node):
    weights = {name: x * 1e30 for name, x in Transformer(SMALL).state_dict().items()}
    with pytest.raises(test_web.Refused, match="Step 1: .* norm NaN"):
        trained(node, SMALL, [random_stories(SMALL, 2, 0)], weights)


def test_the_compiled_kernels_are_small():
    assert (test_web.WEB / "kernels-wasm.js").stat().st_size <= 30_000
