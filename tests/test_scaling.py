"Scaling: laws that are known are found, a floor is exact, a study goes on where it stopped."

import math
from concurrent.futures import Future
from dataclasses import astuple, replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lm336 import scaling
from lm336.dataset import batch_at
from lm336.errors import END_OF_TEXT, InputError
from lm336.experiments import read_log
from lm336.oracle import Oracle
from lm336.scaling import (
    PLANS,
    Plan,
    ScalingLaw,
    ScoredStories,
    bootstrap_laws,
    fit_law,
    interval,
    learn,
    model_shape,
    rate_rule,
    run_plan,
    run_size,
    wsd_factor,
)
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

SIZES = [3e4, 1e5, 3e5, 1e6, 2e6]
BUDGETS = [5e5, 1e6, 2e6, 4e6, 8e6]
N, D = np.array(list(product(SIZES, BUDGETS))).T
LAWS = [
    ScalingLaw(0.16, 200.0, 0.6, 400.0, 0.5),
    ScalingLaw(1.69, 406.4, 0.34, 410.7, 0.28),
    ScalingLaw(0.01, 3.0, 0.2, 1e6, 1.1),
]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("unit", [1.0, 0.3])
def test_a_law_is_found(law, unit):
    "In bits or in nats: a fit does not depend on the unit."
    losses = unit * law.loss(N, D)
    law = ScalingLaw(unit * law.E, unit * law.A, law.a, unit * law.B, law.b)
    np.testing.assert_allclose(astuple(fit_law(N, D, losses)), astuple(law), rtol=1e-2)
    known = fit_law(N, D, losses, entropy=law.E)
    np.testing.assert_allclose(astuple(known), astuple(law), rtol=1e-3)


def test_the_fit_is_at_a_minimum_by_brute_force():
    "Nudging any number of a noisy fit makes Huber's loss of the logarithm larger."
    rng = np.random.default_rng(1)
    losses = LAWS[0].loss(N, D) * np.exp(0.03 * rng.standard_normal(len(N)))
    law = fit_law(N, D, losses, delta=0.01)

    def error(law):
        misses = torch.from_numpy(np.log(law.loss(N, D) / losses))
        return torch.nn.functional.huber_loss(
            misses, torch.zeros_like(misses), reduction="sum", delta=0.01
        ).item()

    least = error(law)
    for name, value in zip(("E", "A", "a", "B", "b"), astuple(law), strict=True):
        for factor in (0.99, 1.01):
            assert error(replace(law, **{name: factor * value})) > least


def test_one_failed_run_does_not_bend_the_law():
    losses = LAWS[0].loss(N, D)
    losses[3] *= 10
    found = fit_law(N, D, losses)
    np.testing.assert_allclose(astuple(found), astuple(LAWS[0]), rtol=0.05)


def test_the_best_size_is_the_lowest_of_many():
    for law in LAWS:
        tried = np.geomspace(1e2, 1e12, 100_001)
        lowest = tried[np.argmin(law.loss(tried, 1e16 / (6 * tried)))]
        assert abs(law.best_size(1e16) / lowest - 1) < 1e-3


@pytest.mark.parametrize("losses", [[1.0, 2.0, math.inf, 1.0, 1.0], [0.0, 1, 1, 1, 1], [1, 2]])
def test_runs_that_fix_no_law_are_refused(losses):
    with pytest.raises(InputError):
        fit_law(N[: len(losses)], D[: len(losses)], losses)


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say():
    "Of 10 studies with other noise, the exponent lies in its 90 % interval in most."
    law, rng, inside = LAWS[0], np.random.default_rng(0), 0
    for _ in range(10):
        losses = law.loss(N, D) * np.exp(0.02 * rng.standard_normal(len(N)))
        some = bootstrap_laws(N, D, losses, entropy=law.E, times=20)
        low, high = interval((one.b for one in some), 0.9)
        inside += low <= law.b <= high
    assert inside >= 6
    assert interval(range(101), 0.9) == pytest.approx((5, 95))


def test_stories_are_scored_from_their_beginnings_by_brute_force():
    tokenizer, oracle = Tokenizer.from_pretrained("stories"), Oracle()
    stories = [oracle.grammar.sample(np.random.default_rng(seed)) for seed in range(3)]
    rows = [tokenizer.encode(story + END_OF_TEXT) for story in stories]
    ids = np.concatenate(rows)
    bits = oracle.token_bits(tokenizer, ids)
    model = Transformer.from_pretrained("stories").float()
    for context in (40, 256):
        scored = ScoredStories(tokenizer, ids, context, bits)
        nats = num_bytes = floor = at = 0.0
        for row in rows:
            seen = row[:context]
            floor += bits[int(at) : int(at) + len(seen)].sum()
            at += len(row)
            num_bytes += len(tokenizer.decode(seen).replace(END_OF_TEXT, "").encode())
            inputs = torch.tensor([[tokenizer.end_of_text_id, *seen[:-1]]])
            with torch.no_grad():
                probabilities = model(inputs)[0].double().log_softmax(-1)
            nats -= probabilities[torch.arange(len(seen)), torch.tensor(seen)].sum().item()
        assert math.isclose(scored.entropy, floor / num_bytes, rel_tol=1e-9)
        assert math.isclose(
            scored.score(model), nats / math.log(2) / num_bytes, rel_tol=1e-4
        )
    model.lm_head.weight.data[0] = math.nan
    with pytest.raises(FloatingPointError):
        scored.score(model)


def test_every_schedule_shares_the_trunk_and_ends_near_zero():
    for steps in (100, 500, 7812):
        factors = [wsd_factor(step, steps) for step in range(steps)]
        assert factors[:50] == [(at + 1) / 50 for at in range(50)]
        assert set(factors[50 : round(0.8 * steps)]) <= {1.0}
        assert factors[-1] == pytest.approx(1 / round(0.2 * steps))
        assert sorted(factors[60:], reverse=True) == factors[60:]


def test_learning_is_a_plain_loop():
    shape = TransformerConfig(40, 8, 16, num_layers=1, num_heads=2)
    tokens, factors = np.arange(400) ** 2 % 40, [1.0, 0.5, 0.25]
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Transformer(shape))
        models[-1].lm_head.weight.data *= 20  # gradients that are longer than 1
    mine, plain = models
    learn(mine, [torch.optim.SGD(mine.parameters(), 0.1)], tokens, 2, 3, factors, first=5)
    for step, factor in enumerate(factors, 5):
        inputs, targets = batch_at(tokens, 2, 8, 3, step)
        loss = F.cross_entropy(plain(inputs).flatten(0, 1), targets.flatten())
        grads = torch.autograd.grad(loss, list(plain.parameters()))
        length = torch.stack([g.norm() for g in grads]).norm()
        assert length > 2, "clipping would do nothing"
        for p, g in zip(plain.parameters(), grads, strict=True):
            p.data -= 0.1 * factor * g / length
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_rule_is_a_power_of_the_width():
    records = [
        dict(width=width, rate=rate, bits_per_byte=1 + math.log(rate / (0.2 / width)) ** 2)
        for width in (8, 32, 128)
        for rate in 0.0004 * 2.0 ** np.arange(8)
    ]
    factor, exponent = rate_rule(records)
    assert math.isclose(factor, 0.2, rel_tol=1e-6) and math.isclose(exponent, -1, rel_tol=1e-6)


TINY = Plan(
    "stories:0.05", (8, 16), (10 * 64, 20 * 64), 2, (8, 16), (0.01, 0.02), 10 * 64, (16,),
    vocab_size=280, context_length=32, batch_size=2, stories=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_plan(monkeypatch):
    monkeypatch.setitem(PLANS, "tiny", TINY)


class AtOnce:
    "Stands in for a pool of processes: the tests' plans are known in this one alone."

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args, **options):
        future: Future = Future()
        future.set_result(function(*args, **options))
        return future


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "ProcessPoolExecutor", AtOnce)
    log = tmp_path / "log.jsonl"
    run_plan("tiny", log, tmp_path / "cache")
    before = log.read_bytes()
    grid = read_log(log, kind="grid")
    assert len(read_log(log, kind="sweep")) == 4 and len(grid) == 8
    assert {(r["width"], r["tokens"], r["seed"]) for r in grid} == set(
        product((8, 16), (640, 1280), (0, 1))
    )
    assert {r["seed"] for r in read_log(log, kind="sweep")} == {2}, "a seed of its own"
    (used,) = {r["rate"] for r in grid if r["width"] == 16}
    checks = read_log(log, kind="check")
    assert sorted(r["rate"] / used for r in checks) == pytest.approx([0.5, 1, 2], rel=0.01)
    assert {(r["width"], r["budget"], r["seed"]) for r in checks} == {(16, 640, 2)}
    run_plan("tiny", log, tmp_path / "cache")
    assert log.read_bytes() == before
    log.write_bytes(before[: before.rindex(b"\n", 0, -1) + 30])  # cut off in its last line
    run_plan("tiny", log, tmp_path / "other")  # without the trunks
    again = read_log(log, kind="grid")
    for old, new in zip(grid, again, strict=True):
        assert old["bits_per_byte"] == new["bits_per_byte"], "the same run, the same figure"
    for record in grid:
        shape = model_shape(TINY, record["width"])
        assert record["parameters"] - record["without_embeddings"] == 280 * shape.d_model
        assert {"cpu", "precision", "torch", "date", "seconds", "flops"} <= record.keys()


def test_a_run_that_diverges_is_recorded_as_infinite(tmp_path):
    record = run_size(TINY, 8, 20 * 64, 0, 1e38, tmp_path)
    assert record["bits_per_byte"] == math.inf
