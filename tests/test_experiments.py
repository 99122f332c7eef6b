"Experiments: what a record says, what counts as measured already, and texts told apart."

import json
import math
import threading
from collections import Counter
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
import torch

from lm336.configuration import TrainingConfig
from lm336.dataset import batch_at
from lm336.errors import END_OF_TEXT, InputError
from lm336.experiments import (
    DESIGNS,
    SCALES,
    SWEEP_SEED,
    Arm,
    Variant,
    best_rate,
    byte_entropy,
    chance_of_t,
    compare,
    critical_t,
    holm,
    mean_interval,
    prepare_once,
    read_arms,
    read_log,
    run_experiment,
    run_variant,
    settings_of,
    share_learned,
    sweep_rates,
    text_digest,
    vary_norms,
    vary_vocabulary,
    with_post_norm,
    without_norms,
)
from lm336.files import log_file
from lm336.grammar import StoryGrammar
from lm336.runs import Run
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

from .test_evaluation import surprise_by_brute_force

TINY: dict[str, dict[str, Any]] = dict(
    model=dict(vocab_size=270, context_length=8, d_model=16, num_layers=1, num_heads=2),
    training=dict(
        max_steps=4,
        warmup_steps=1,
        batch_size=4,
        learning_rate=1e-2,
        min_learning_rate=5e-4,
        eval_interval=2,
        eval_windows=4,
    ),
)
STORIES = "stories:0.002"


@pytest.fixture(autouse=True)
def tiny_scale(monkeypatch):
    "A scale at which a run takes a moment."
    monkeypatch.setitem(SCALES, "tiny", TINY)


def text_file(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return str(folder / "text.txt")


def sums(count, start=0):
    return "".join(f"{n} and {n} are {2 * n}.\n" for n in range(start, start + count))


def text_of(folder):
    "What the token files of a prepared folder say."
    tokenizer = Tokenizer.from_pretrained(folder)
    files = [folder / "data" / f"{name}.npy" for name in ("train", "valid")]
    return "".join(tokenizer.decode(np.load(path).tolist()) for path in files)


def state_of(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def test_texts_are_told_apart_by_what_they_say(tmp_path):
    one = text_file(tmp_path / "a", sums(50))
    other = text_file(tmp_path / "b", sums(50, start=1))
    copy = text_file(tmp_path / "c", sums(50))
    assert text_digest(one) == text_digest(copy) != text_digest(other)
    assert len({text_digest(data) for data in ("stories:1", "stories:2", "tinystories")}) == 3
    assert text_digest("stories") == text_digest("stories:20") == text_digest("stories:20.0")
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        text_digest(str(tmp_path / "nowhere.txt"))


def test_two_texts_of_one_name_are_two(tmp_path):
    texts = {name: sums(60, start) for name, start in (("a", 0), ("b", 500))}
    files = {name: text_file(tmp_path / name, text) for name, text in texts.items()}
    cache = tmp_path / "cache"
    folders = {name: prepare_once(path, 270, cache) for name, path in files.items()}
    assert {name: text_of(folder) for name, folder in folders.items()} == texts


def test_what_is_prepared_is_prepared_once_for_each_vocabulary(tmp_path):
    data, cache = text_file(tmp_path / "a", sums(60)), tmp_path / "cache"
    folder = prepare_once(data, 270, cache)
    before = state_of(folder)
    assert prepare_once(data, 270, cache) == folder and state_of(folder) == before
    larger = prepare_once(data, 280, cache)
    assert Tokenizer.from_pretrained(larger).vocab_size == 280
    assert Tokenizer.from_pretrained(folder).vocab_size == 270


def test_a_changed_text_is_noticed(tmp_path):
    data = text_file(tmp_path / "a", sums(60))
    prepare_once(data, 270, tmp_path / "cache")
    text_file(tmp_path / "a", sums(60, start=100))
    assert text_of(prepare_once(data, 270, tmp_path / "cache")) == sums(60, start=100)


def test_what_was_interrupted_is_begun_again(tmp_path, monkeypatch):
    data, cache = text_file(tmp_path / "a", sums(60)), tmp_path / "cache"
    encode_file = Tokenizer.encode_file

    def interrupted(self, text, out, *args, **options):
        if out.name == "valid.npy":
            raise KeyboardInterrupt
        return encode_file(self, text, out, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Tokenizer, "encode_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_once(data, 270, cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "data" / "train.npy").write_bytes(b"half")
    assert prepare_once(data, 270, cache) == folder and text_of(folder) == sums(60)
    assert not [path for path in folder.rglob("*") if "unfinished" in path.name]


def test_byte_entropy_and_share_learned_by_hand(tmp_path):
    data = text_file(tmp_path / "a", "aabc" * 10)
    assert math.isclose(byte_entropy(data), 1.5)
    assert byte_entropy(text_file(tmp_path / "b", "a" * 10)) == 0
    better = dict(byte_entropy=4.0, floor=1.0, bits_per_byte=1.6)
    assert math.isclose(share_learned(better), 0.8)
    worse = dict(byte_entropy=4.0, floor=1.0, bits_per_byte=5.5)
    assert share_learned(worse) == -0.5, "worse than the bytes' frequencies"
    assert math.isnan(share_learned(dict(byte_entropy=4.0, floor=None, bits_per_byte=2.0)))


def test_a_record_says_what_was_measured(tmp_path):
    variant = Variant("longer", training=dict(max_steps=6, precision="float32"))
    record = run_variant(variant, 3, STORIES, "tiny", tmp_path)
    files = prepare_once(STORIES, 270, tmp_path)
    text = (files / "data" / "valid.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(files)
    train, valid = (np.load(files / "data" / f"{name}.npy") for name in ("train", "valid"))

    torch.manual_seed(3)  # the same run by hand, scored by the brute force
    model = Transformer(TransformerConfig(**TINY["model"]))
    config = TrainingConfig(**TINY["training"] | variant.training, seed=3)
    trainer = Run(model, train, valid, config, tmp_path / "run")
    for _ in range(6):
        trainer.train_step()
    end = tokenizer.end_of_text_id
    nats = surprise_by_brute_force(model.cpu(), valid, end, stride=4).sum()
    num_bytes = len(text.replace(END_OF_TEXT, "").encode("utf-8"))
    assert math.isclose(record["bits_per_byte"], nats / math.log(2) / num_bytes, rel_tol=1e-4)

    counts = Counter(text.encode("utf-8"))
    shares = [count / counts.total() for count in counts.values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    assert math.isclose(record["byte_entropy"], entropy)
    assert record["floor"] == StoryGrammar().file_bits_per_byte(files / "data" / "valid.txt")
    assert record["precision"] == "float32"
    assert (record["steps"], record["tokens"]) == (6, 6 * 4 * 8)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert [step for step, _ in record["curve"]] == [0, 2, 4, 6]
    last = trainer.validate() / math.log(2) / tokenizer.token_lengths[valid].mean()
    assert math.isclose(record["curve"][-1][1], last, rel_tol=1e-3)


def test_the_same_seed_gives_the_same_number_and_another_seed_another(tmp_path):
    data = text_file(tmp_path / "a", sums(60))
    runs = [run_variant(Variant("x"), seed, data, "tiny", tmp_path) for seed in (0, 0, 1)]
    one, same, other = (run["bits_per_byte"] for run in runs)
    assert one == same != other


def test_a_variant_changes_what_it_says(tmp_path):
    data = text_file(tmp_path / "a", sums(60))
    plain = run_variant(Variant("plain"), 0, data, "tiny", tmp_path)
    tying = Variant("tied", model=dict(tie_embeddings=True))
    tied = run_variant(tying, 0, data, "tiny", tmp_path)
    assert plain["parameters"] - tied["parameters"] == 270 * 16
    seen = []
    changed = run_variant(Variant("changed", change=seen.append), 0, data, "tiny", tmp_path)
    assert len(seen) == 1 and isinstance(seen[0], Transformer)
    assert changed["bits_per_byte"] == plain["bits_per_byte"]


def test_a_run_that_breaks_is_recorded_as_infinite(tmp_path):
    settings = dict(learning_rate=1e38, warmup_steps=0, max_steps=10)
    broken = Variant("too fast", training=settings)
    record = run_variant(broken, 0, text_file(tmp_path / "a", sums(60)), "tiny", tmp_path)
    assert record["bits_per_byte"] == math.inf and record["steps"] < 10


def test_a_run_by_the_clock_is_scored_where_the_clock_ends_it(tmp_path):
    settings = dict(train_seconds=0.05, max_steps=10**6, eval_interval=10**6)
    variant = Variant("a moment", training=settings)
    record = run_variant(variant, 0, text_file(tmp_path / "a", sums(60)), "tiny", tmp_path)
    assert record["steps"] < 10**6 and math.isfinite(record["bits_per_byte"])
    assert record["tokens"] == record["steps"] * 4 * 8


def test_a_log_is_read_up_to_a_last_line_cut_short(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    first = '{"variant": "a", "seed": 0, "bits_per_byte": Infinity}'
    second = '{"variant": "b", "seed": 1}'
    log.write_text(f"{first}\n{second}\n{second[:-6]}")
    diverged, other = read_log(log)
    assert diverged == dict(variant="a", seed=0, bits_per_byte=math.inf)
    assert other == dict(variant="b", seed=1)
    assert read_log(log, variant="b", seed=1) == [other]
    assert read_log(log, variant="b", seed=0) == []
    assert read_log(log, bits_per_byte=math.inf) == [diverged]
    assert read_log(log, text="what no record names") == []


def test_a_damaged_line_inside_a_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"variant": "a"}\n{"vari\n{"variant": "b"}\n')
    with pytest.raises(InputError, match="line 2"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("scale", ["cpu", "t4"])
def test_every_variant_of_every_experiment_is_a_configuration(scale):
    for design in DESIGNS.values():
        variants = design(scale)
        assert len({variant.label for variant in variants}) == len(variants)
        for variant in variants:
            settings = settings_of(variant, scale)
            assert json.loads(json.dumps(settings)) == settings, "the log cannot hold it"
            TransformerConfig(**settings["model"])
            TrainingConfig(**settings["training"])


def test_settings_tell_apart_all_that_differs():
    variants = [variant for design in DESIGNS.values() for variant in design("tiny")]
    variants = [variant for variant in variants if variant.times == 1]
    different = {json.dumps(settings_of(variant, "tiny")) for variant in variants}
    bases = [one for one in variants if settings_of(one, "tiny") == settings_of(BASE, "tiny")]
    assert {one.label for one in bases} == {"0.01", "4", "as built", "pre-norm", "270"}
    assert len(different) == len(variants) - len(bases) + 1


BASE = Variant("base")


def test_a_window_of_another_vocabulary_has_as_many_bytes_and_all_cost_the_same(tmp_path):
    base, larger = vary_vocabulary("tiny")[2], Variant("x", model=dict(vocab_size=400))
    larger.same_bytes = True
    assert base.label == "270" and not base.same_bytes
    one, other = (run_variant(v, 1, STORIES, "tiny", tmp_path) for v in (base, larger))
    lengths = {}
    for size in (270, 400):
        files = prepare_once(STORIES, size, tmp_path)
        tokens = np.load(files / "data" / "train.npy")
        lengths[size] = Tokenizer.from_pretrained(files).token_lengths[tokens].mean()
    windows = [record["tokens"] / record["steps"] / 4 for record in (one, other)]
    assert windows[0] == 8 and windows[1] == round(8 * lengths[270] / lengths[400]) < 8

    def flops(record, window, vocab_size):  # Kaplan et al.: 6 for each weight, and the scores
        weights = 4 * 16 * 16 + 3 * 16 * 64 + 16 * vocab_size
        return record["tokens"] * (6 * weights + 12 * window * 16)

    ratio = flops(other, windows[1], 400) / flops(one, 8, 270)
    assert abs(ratio - 1) < 0.5 / other["steps"] + 1e-9, "to half a step"


# ---------------------------------------------------------------- learning rates


def test_a_parabola_finds_its_lowest_point():
    rates = 0.001 * 2.0 ** np.arange(6)
    for low in (0.0021, 0.0060, 0.0150):
        losses = [3 + math.log(rate / low) ** 2 for rate in rates]
        assert math.isclose(best_rate(list(rates), losses), low, rel_tol=1e-6)
    assert best_rate(list(rates), [6, 5, 4, 3, 2, 1]) == rates[-1]
    assert best_rate(list(rates), [3, 2, math.inf, 9, 9, 9]) == rates[1]


@pytest.mark.parametrize("low", [0.0011, 0.004, 0.0099, 0.5])
def test_a_sweep_goes_on_until_the_best_has_a_rate_on_either_side(low):
    asked = []

    def loss_at(rate):
        asked.append(rate)
        return 1 + math.log(rate / low) ** 2

    best, losses = sweep_rates(loss_at, 0.008)
    assert math.isclose(best, low, rel_tol=0.01)
    assert sorted(asked) == list(losses) and asked[:3] == [0.004, 0.008, 0.016]
    assert min(losses) < low < max(losses) and len(asked) == len(set(asked))
    ratios = np.divide(list(losses)[1:], list(losses)[:-1])
    assert np.allclose(ratios, 2), "no rate is left out"


def test_a_sweep_steps_back_from_rates_that_diverge():
    best, losses = sweep_rates(lambda rate: math.inf if rate > 0.003 else 1 / rate, 0.016)
    assert best == 0.002 and losses[0.004] == math.inf and losses[0.001] == 1000


def test_a_sweep_that_finds_no_bottom_ends():
    best, losses = sweep_rates(lambda rate: -rate, 1.0, most=3)
    assert list(losses) == [0.5, 1, 2, 4, 8, 16] and best == 16
    best, losses = sweep_rates(lambda rate: math.inf, 1.0, most=2)
    assert list(losses) == [0.125, 0.25, 0.5, 1, 2] and best == 0.125


# ---------------------------------------------------------------- what is run


def measured(log):
    "How often each run stands in a log."
    fields = itemgetter("text", "variant", "role", "seed")
    rates = [record["settings"]["training"]["learning_rate"] for record in read_log(log)]
    return Counter((*fields(r), rate) for r, rate in zip(read_log(log), rates, strict=True))


def pretended(variant, seed, data, scale, cache):
    "A run that takes no time: the best rate is 0.03, for post-norm 0.012."
    settings = settings_of(variant, scale)
    low = 0.012 if settings["change"] == "with_post_norm" else 0.03
    rate = settings["training"]["learning_rate"]
    bits = 1 + math.log2(rate / low) ** 2 / 10 + seed / 100
    return dict(bits_per_byte=round(bits, 5), floor=None, byte_entropy=4.5)


@pytest.fixture
def quick(monkeypatch):
    "Runs of experiments are pretended."
    monkeypatch.setattr("lm336.experiments.run_variant", pretended)


def run_tiny(tmp_path, data=None, seeds=1, name="precision"):
    data = data or text_file(tmp_path / "sums", sums(60))
    log = tmp_path / "logs" / "log.jsonl"
    run_experiment(name, data, "tiny", seeds, log, tmp_path / "cache")
    return measured(log)


def test_each_arm_is_swept_and_then_runs_at_its_own_best_rate(tmp_path):
    data = text_file(tmp_path / "sums", sums(60))
    run_tiny(tmp_path, data, 2)
    log = tmp_path / "logs" / "log.jsonl"
    arms = read_arms(log, "precision", data, "tiny")
    assert list(arms) == ["float32", "bfloat16"]
    for label, arm in arms.items():
        mine = read_log(log, variant=label)
        assert {one["seed"] for one in mine if one["role"] == "sweep"} == {SWEEP_SEED}
        assert [one["seed"] for one in mine if one["role"] == "counts"] == [1, 2]
        rates = [one["settings"]["training"]["learning_rate"] for one in arm.sweep]
        losses = [one["bits_per_byte"] for one in arm.sweep]
        assert rates == sorted(rates) and {0.005, 0.01, 0.02} <= set(rates)
        assert arm.rate == float(f"{best_rate(rates, losses):.3g}")
        assert arm.scores.tolist() == [one["bits_per_byte"] for one in arm.runs]
        assert len(arm.sweep) + len(arm.runs) == len(mine)
        ends = {one["settings"]["training"]["min_learning_rate"] for one in arm.runs}
        assert ends == {arm.rate / 20}


def test_all_arms_of_a_seed_read_the_same_windows(tmp_path, monkeypatch):
    read: dict[tuple, list] = {}

    def spied(tokens, batch_size, context_length, seed, step, *args):
        inputs, targets = batch_at(tokens, batch_size, context_length, seed, step, *args)
        read.setdefault((seed, step), []).append(inputs)
        return inputs, targets

    monkeypatch.setattr("lm336.fast_trainer.batch_at", spied)
    run_tiny(tmp_path, name="parts")
    counted = {key: batches for key, batches in read.items() if key[0] == 1}
    assert len(counted) == 4, "four steps"
    for batches in counted.values():
        assert len(batches) == 4 and all(torch.equal(one, batches[0]) for one in batches)


def test_four_times_a_best_rate_needs_no_sweep_of_its_own(tmp_path, quick):
    data = text_file(tmp_path / "sums", sums(60))
    run_tiny(tmp_path, data, name="norms")
    arms = read_arms(tmp_path / "logs" / "log.jsonl", "norms", data, "tiny")
    assert [variant.change for variant in vary_norms("tiny")[:3]] == [
        None, with_post_norm, without_norms
    ]  # fmt: skip
    for kind in ("pre-norm", "post-norm", "no norms"):
        one, four = arms[kind], arms[f"{kind}, rate x 4"]
        best = 0.012 if kind == "post-norm" else 0.03
        assert math.isclose(one.rate, best, rel_tol=0.01) and four.rate == 4 * one.rate
        assert four.sweep == one.sweep
    labels = {label for _, label, role, _, _ in measured(tmp_path / "logs" / "log.jsonl")
              if role == "sweep"}
    assert labels == {"pre-norm", "post-norm", "no norms"}


def test_experiments_share_the_runs_that_are_the_same(tmp_path, quick):
    data = text_file(tmp_path / "sums", sums(60))
    parts = run_tiny(tmp_path, data, name="parts")
    both = run_tiny(tmp_path, data, name="batch_size")
    assert not [run for run in both - parts if run[1] == "4"], "batch 4 is the base"
    log = tmp_path / "logs" / "log.jsonl"
    built = read_arms(log, "parts", data, "tiny")["as built"]
    assert read_arms(log, "batch_size", data, "tiny")["4"] == built


def test_given_rates_are_not_swept(tmp_path, quick):
    data = text_file(tmp_path / "sums", sums(60))
    found = run_tiny(tmp_path, data, name="learning_rate")
    assert {(role, seed) for _, _, role, seed, _ in found} == {("counts", 1)}
    arms = read_arms(tmp_path / "logs" / "log.jsonl", "learning_rate", data, "tiny")
    assert [arm.rate for arm in arms.values()] == [float(label) for label in arms]
    assert all(arm.sweep == [] for arm in arms.values())


def test_what_the_log_has_is_not_run_again(tmp_path):
    run_tiny(tmp_path)
    log = tmp_path / "logs" / "log.jsonl"
    before = log.read_bytes()
    run_tiny(tmp_path)
    assert log.read_bytes() == before
    both = run_tiny(tmp_path, seeds=2)
    assert log.read_bytes().startswith(before)
    assert set(both.values()) == {1} and len(both) == before.count(b"\n") + 2
    assert {record["experiment"] for record in read_log(log)} == {"precision"}


OTHER_MACHINE = dict(cpu="another", gpu="none", torch="2", python="3", lm336="0")


def test_other_settings_another_format_or_machine_are_run_anew(tmp_path, monkeypatch, quick):
    log = tmp_path / "logs" / "log.jsonl"

    def run_again():
        before = len(read_log(log))
        run_tiny(tmp_path, name="parts")
        return read_log(log)[before:]

    monkeypatch.setenv("LM336_PRECISION", "float32")
    first = run_again()
    assert {record["precision"] for record in first} == {"float32"} and not run_again()
    monkeypatch.setenv("LM336_PRECISION", "bfloat16")
    assert {record["precision"] for record in run_again()} == {"bfloat16"}
    monkeypatch.setattr("lm336.experiments.environment", lambda: OTHER_MACHINE)
    assert {record["cpu"] for record in run_again()} == {"another"}
    monkeypatch.setitem(TINY["training"], "weight_decay", 0.2)
    assert len(run_again()) >= 4 * 4


@pytest.mark.parametrize("field", ["cpu", "gpu", "torch", "precision"])
def test_machines_and_formats_are_not_mixed(field, tmp_path, quick):
    data = text_file(tmp_path / "sums", sums(60))
    run_tiny(tmp_path, data, name="parts")
    records = read_log(tmp_path / "logs" / "log.jsonl")
    log = tmp_path / "mixed.jsonl"
    other = dict(records[-1]) | {field: "another"}
    log.write_text("".join(json.dumps(one) + "\n" for one in [*records[:-1], other]))
    with pytest.raises(InputError, match=f"differ in {field}: choose one of .*another"):
        read_arms(log, "parts", data, "tiny")
    log.write_text("".join(json.dumps(one) + "\n" for one in [*records, other]))
    chosen = {field: records[0][field]}
    runs = [run for arm in read_arms(log, "parts", data, "tiny", **chosen).values()
            for run in arm.runs]
    assert runs == records[-4:]


def test_arms_without_all_their_runs_are_not_compared(tmp_path, quick):
    data = text_file(tmp_path / "sums", sums(60))
    run_tiny(tmp_path, data, 2)
    log = tmp_path / "logs" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    for without in (0, -1):  # a run of a sweep, a run that counts
        some = tmp_path / "some.jsonl"
        some.write_text("".join(line for line in lines if line != lines[without]))
        with pytest.raises(InputError, match="lm336_experiment precision"):
            read_arms(some, "precision", data, "tiny")
    with pytest.raises(InputError, match="lacks runs"):
        read_arms(tmp_path / "none.jsonl", "precision", data, "tiny")
    with pytest.raises(InputError, match="choose one of"):
        read_arms(log, "precisoin", data, "tiny")


@pytest.mark.parametrize("name", DESIGNS)
def test_the_log_that_comes_along_has_five_seeds_of_every_arm(name):
    arms = read_arms(log_file("experiments"), name)
    assert list(arms) == [variant.label for variant in DESIGNS[name]("cpu")]
    for arm in arms.values():
        assert [run["seed"] for run in arm.runs] == [1, 2, 3, 4, 5]
        assert len(arm.sweep) >= 3 or name == "learning_rate"


def test_a_run_that_diverged_counts_as_one_that_learned_nothing():
    runs = [dict(bits_per_byte=bits, byte_entropy=4.5) for bits in (1.25, math.inf, 4.75)]
    assert Arm([], runs).scores.tolist() == [1.25, 4.5, 4.75]


def test_a_run_whose_line_was_cut_short_is_run_again(tmp_path):
    whole = run_tiny(tmp_path)
    log = tmp_path / "logs" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    assert len(measured(log)) == len(whole) - 1
    assert run_tiny(tmp_path) == whole
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line) for line in lines), "half a line is left"


def test_another_text_of_the_same_name_is_not_measured_yet(tmp_path, quick):
    one = text_file(tmp_path / "a", sums(60))
    other = text_file(tmp_path / "b", sums(60, start=500))
    first = run_tiny(tmp_path, one)
    both = run_tiny(tmp_path, other)
    assert len({text for text, *_ in both}) == 2 and both > first
    text_file(tmp_path / "b", sums(60, start=900))
    three = run_tiny(tmp_path, other)
    assert len({text for text, *_ in three}) == 3
    assert run_tiny(tmp_path, one) == three


def test_two_that_write_one_log_run_nothing_twice(tmp_path, quick):
    together = [threading.Thread(target=run_tiny, args=(tmp_path,)) for _ in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    found = measured(tmp_path / "logs" / "log.jsonl")
    assert len(found) >= 8 and set(found.values()) == {1}


@pytest.mark.parametrize(("name", "scale"), [("leraning_rate", "tiny"), ("parts", "huge")])
def test_a_name_that_is_not_there_is_refused(name, scale, tmp_path):
    with pytest.raises(InputError, match="choose one of"):
        run_experiment(name, STORIES, scale, 1, tmp_path / "log.jsonl", tmp_path / "cache")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what five seeds can say

# Student's own example (1908), the hours of sleep that two drugs gained for ten patients; the
# expected values are those of R 4: t.test(b, a, paired=TRUE) and t.test(b, a)
SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


@pytest.mark.parametrize(("t", "freedom", "chance"), [
    (12.706, 1, 0.05), (2.776, 4, 0.05), (-2.228, 10, 0.05), (3.707, 6, 0.01), (0.0, 5, 1.0),
])  # fmt: skip
def test_students_table(t, freedom, chance):
    assert chance_of_t(t, freedom) == pytest.approx(chance, rel=1e-3)
    if chance < 1:
        assert critical_t(freedom, chance) == pytest.approx(abs(t), rel=1e-3)


def test_sleep_in_pairs_as_in_r():
    found = compare(SLEEP_A, SLEEP_B, paired=True)
    assert found.mean == pytest.approx(1.58)
    assert found.chance == pytest.approx(0.002833, abs=1e-6)
    low, high = found.mean - found.half, found.mean + found.half
    assert (low, high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_sleep_without_pairs_as_in_r():
    found = compare(SLEEP_A, SLEEP_B, paired=False)
    assert found.chance == pytest.approx(0.07939, abs=1e-5)
    low, high = found.mean - found.half, found.mean + found.half
    assert (low, high) == pytest.approx((-0.2054832, 3.3654832), abs=1e-6)


def test_an_interval_of_one_sample_as_in_r():
    mean, half = mean_interval(SLEEP_B)  # t.test(b): 0.8976775 to 3.7623225
    assert (mean - half, mean + half) == pytest.approx((0.8976775, 3.7623225), abs=1e-6)


@pytest.mark.parametrize("paired", [True, False])
def test_without_any_spread_a_difference_is_certain(paired):
    assert compare([1.0, 1.0], [1.0, 1.0], paired).chance == 1
    found = compare([1.0, 1.0], [1.5, 1.5], paired)
    assert (found.mean, found.half, found.chance) == (0.5, 0, 0)


def test_pairs_cancel_what_a_seed_does_to_both():
    a = [0.70, 0.80, 0.75, 0.90, 0.60]
    b = [0.72, 0.82, 0.78, 0.92, 0.61]
    assert compare(a, b, paired=True).chance < 0.01 < compare(a, b, paired=False).chance


def test_holm_as_in_r():
    # p.adjust(c(0.01, 0.04, 0.02, 0.03), "holm"), and with ties and a large one
    assert holm([0.01, 0.04, 0.02, 0.03]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.001]) == pytest.approx([0.5, 0.003, 0.003])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.04]) == [0.04] and holm([]) == []


def test_equals_are_told_apart_one_time_in_twenty():
    rng, alarms, covered = np.random.default_rng(0), {True: 0, False: 0}, 0
    for _ in range(400):
        a, b = rng.normal(3, 0.1, (2, 5))
        for paired in alarms:
            alarms[paired] += compare(a, b, paired).chance < 0.05
        mean, half = mean_interval(a)
        covered += abs(mean - 3) < half
    assert 10 <= alarms[True] <= 30 and 6 <= alarms[False] <= 30 and 370 <= covered <= 390
