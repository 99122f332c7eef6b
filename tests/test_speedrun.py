"The speedrun: what each recipe changes, what is counted, and what three seeds may say."

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lm336 import speedrun
from lm336.accounting import flops_per_token
from lm336.configuration import load_preset
from lm336.errors import InputError
from lm336.experiments import chance_of_t, read_log
from lm336.muon import orthogonalize_flops
from lm336.oracle import Oracle
from lm336.scaling import ScoredStories
from lm336.speedrun import (
    RECIPES,
    SEEDS,
    Recipe,
    Track,
    build,
    flops_per_update,
    run_recipe,
    run_speedrun,
    table,
    together,
    verdicts,
)
from lm336.tokenizer import Tokenizer
from lm336.transformer import TransformerConfig

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture(autouse=True)
def small_demo(monkeypatch):
    "The demo's recipe with a small model."
    data, model, training = load_preset("demo_cpu")
    model = TransformerConfig(model.vocab_size, 16, d_model=16, num_layers=2, num_heads=2)
    monkeypatch.setattr(speedrun, "_DEMO", (data, model, training))
    monkeypatch.setattr(speedrun, "BATCH_SIZE", 2)


@torch.no_grad()
def logits(name, seed=0):
    return build(RECIPES[name], seed)(IDS)


def test_queries_and_keys_have_one_length():
    attention: Any = build(RECIPES["qk_norm"], 0).layers[0].attn
    x = torch.randn(2, 6, 16, generator=torch.manual_seed(0))
    plain: Any = build(RECIPES["demo"], 0).layers[0].attn
    for mine, theirs in zip(attention.project(x), plain.project(x), strict=True):
        is_value = torch.equal(mine, theirs)
        rms = mine.square().mean(-1).sqrt()
        assert is_value or torch.allclose(rms, torch.ones_like(rms), atol=1e-3)
        torch.testing.assert_close(F.normalize(mine, dim=-1), F.normalize(theirs, dim=-1))


def test_with_outputs_of_zero_the_blocks_add_nothing():
    model = build(RECIPES["zero_outputs"], 0)
    shallow = model.lm_head(model.ln_final(model.token_embeddings(IDS)))
    torch.testing.assert_close(model(IDS), shallow)


def test_a_squared_relu_costs_what_the_gate_cost():
    model, demo = (build(RECIPES[name], 0) for name in ("squared_relu", "demo"))
    sizes = [sum(p.numel() for p in one.parameters()) for one in (model, demo)]
    assert sizes[0] == sizes[1]
    ffn, x = model.layers[0].ffn, torch.randn(3, 16)
    right = torch.where(x @ ffn.w1.weight.T > 0, x @ ffn.w1.weight.T, 0.0) ** 2
    torch.testing.assert_close(ffn(x), right @ ffn.w2.weight.T)


def test_value_embeddings_begin_as_the_demo_and_then_follow_the_token():
    torch.testing.assert_close(logits("value_embeddings"), logits("demo"))
    model = build(RECIPES["value_embeddings"], 0)
    F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
    for block in model.layers:
        moved = block.attn.values.weight.grad.abs().sum(-1) > 0
        assert moved[IDS.flatten()].all() and moved.sum() == IDS.numel()


def test_logits_stay_below_the_cap():
    capped, demo = logits("softcap"), logits("demo")
    torch.testing.assert_close(capped, 15 * torch.tanh(demo / 15))


def test_muon_and_adamw_share_the_parameters():
    model = build(RECIPES["muon"], 0)
    muon, adamw = RECIPES["muon"].optimizers(model, 2.0)
    mine, others = (
        [id(p) for group in one.param_groups for p in group["params"]] for one in (muon, adamw)
    )
    assert sorted(mine + others) == sorted(id(p) for p in model.parameters())
    assert muon.param_groups[0]["lr"] == 0.04 and adamw.param_groups[0]["lr"] == 0.008


def test_all_changes_go_together():
    recipe = together([name for name in RECIPES if name != "demo"])
    model = build(recipe, 0)
    assert model.lm_head.weight is model.token_embeddings.weight
    assert model(100 + IDS).abs().max() <= 15
    assert recipe.optimizers is RECIPES["muon"].optimizers
    assert recipe.schedule is RECIPES["wsd"].schedule
    q, _, _ = model.layers[1].attn.project(torch.randn(2, 6, 16))
    assert torch.allclose(q.square().mean(-1), torch.ones(()), atol=1e-3)


def test_what_is_counted():
    config = speedrun._DEMO[1]
    passes = 2 * 16 * flops_per_token(config)
    for name in RECIPES:
        extra = 0
        if name == "muon":
            shapes = [(16, 16)] * 4 + [(config.d_ff, 16)] * 3
            extra = 2 * sum(orthogonalize_flops(*shape) for shape in shapes)
        assert flops_per_update(RECIPES[name]) == passes + extra, name


@pytest.fixture(scope="module")
def track():
    "A story to learn from, and one to be scored on."
    tokenizer, oracle = Tokenizer.from_pretrained("stories"), Oracle()
    texts = [oracle.grammar.sample(np.random.default_rng(seed)) for seed in (0, 1)]
    ids = [np.array(tokenizer.encode(text + "<|endoftext|>")) for text in texts]
    bits = oracle.token_bits(tokenizer, ids[1])
    return Track(ids[0], ScoredStories(tokenizer, ids[1], 16, bits))


def test_a_run_spends_its_budget_and_learns(track):
    cost = flops_per_update(RECIPES["demo"])
    begun, ended = (
        run_recipe(RECIPES["demo"], 4.0, 1, track, steps * cost + 1) for steps in (1, 40)
    )
    assert ended["steps"] == 40 and ended["flops"] == 40 * cost
    assert ended["tokens"] == 40 * 2 * 16 and ended["excess"] < begun["excess"]
    assert run_recipe(RECIPES["demo"], 1e9, 1, track, 5 * cost)["excess"] == math.inf


def counted(name, scores):
    return [
        dict(recipe=name, role="counts", factor=1.0, seed=seed, excess=score,
             seconds_times_peak=1e12)
        for seed, score in zip(SEEDS, scores, strict=False)
    ]  # fmt: skip


def test_a_verdict_by_hand():
    records = counted("demo", [1.0, 1.1, 1.2]) + counted("a", [0.5, 0.6, 0.7])
    records += counted("b", [1.0, 1.1, 1.25]) + counted("c", [0.1, 0.1])
    records += counted("d", [1.0, math.inf, 1.0])
    found = {one.recipe: one for one in verdicts(records)}
    assert set(found) == {"demo", "a", "b", "d"}, "c lacks a seed"
    variance = (0.01 + 0.01 + np.var([1.0, 1.1, 1.25], ddof=1)) / 3  # pooled, 6 degrees
    t = 0.5 / math.sqrt(variance * 2 / 3)
    assert found["a"].chance == pytest.approx(3 * chance_of_t(t, 6))
    assert found["a"].says == "better" and found["d"].says == "worse"
    assert found["b"].says.startswith("brings nothing")
    assert [line.split()[1] for line in table(records).splitlines()[2:]] == list("a") + [
        "demo", "b", "d",
    ]  # fmt: skip
    assert verdicts(counted("a", [1, 1, 1])) == [] and "No recipe" in table([])


def test_equals_are_rarely_told_apart():
    "Eight recipes that are the demo's: one in twenty races may name a winner or a loser."
    rng, named = np.random.default_rng(0), 0
    for _ in range(100):
        races = [counted(name, 1 + 0.02 * rng.standard_normal(3)) for name in RECIPES]
        named += any(
            one.says in ("better", "worse") for one in verdicts(sum(races, start=[]))
        )
    assert named <= 12


def test_a_race_goes_on_where_it_stopped(tmp_path, monkeypatch):
    ran = []

    def run(recipe, factor, seed, track, budget):
        "Muon's best factor is 2, the others' 1; Muon and the cap are worth 0.2 each."
        ran.append((recipe.says, factor, seed))
        best = 2 if recipe.optimizers is speedrun.by_muon else 1
        gain = 0.2 * (recipe.optimizers is speedrun.by_muon)
        gain += 0.2 * (speedrun.with_softcap in recipe.changes)
        excess = 1 - gain + abs(math.log2(factor / best)) + 0.001 * seed
        return dict(excess=excess, seconds=1.0, seconds_times_peak=1e12)

    monkeypatch.setattr(speedrun, "run_recipe", run)
    log, track = tmp_path / "log.jsonl", Track(np.zeros(0), None)  # pyright: ignore
    assert run_speedrun("muon", log, track=track) == "No recipe has all its runs yet."
    assert len(ran) == 7 and {(f, s) for _, f, s in ran[4:]} == {(2.0, s) for s in SEEDS}
    said = run_speedrun("all", log, track=track)
    assert len(ran) == 7 * (len(RECIPES) + 1)
    assert said.splitlines()[2].startswith("| together | 0.60")
    for name in RECIPES:
        (factor,) = {one["factor"] for one in read_log(log, recipe=name, role="counts")}
        assert factor == 1 + (name == "muon"), "each at its own best"
    (whole,) = {one["says"] for one in read_log(log, recipe="together")}
    assert whole == "muon, softcap"
    before = log.read_bytes()
    assert run_speedrun("all", log, track=track) == said and log.read_bytes() == before
    log.write_bytes(before[:-30])
    run_speedrun("all", log, track=track)
    assert len(ran) == 7 * (len(RECIPES) + 1) + 1
    with pytest.raises(InputError, match="choose all or one of demo, muon"):
        run_speedrun("leap", log)


def test_a_recipe_without_changes_is_the_demos():
    assert Recipe("", {}) == Recipe("", {}) and together([]).optimizers is speedrun.by_adamw
