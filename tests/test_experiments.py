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
from lm336.errors import END_OF_TEXT, InputError
from lm336.experiments import (
    DESIGNS,
    SCALES,
    Variant,
    byte_entropy,
    mean_and_spread,
    prepare_once,
    read_log,
    run_experiment,
    run_variant,
    share_learned,
    text_digest,
)
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
        min_learning_rate=1e-3,
        eval_interval=2,
        eval_windows=4,
    ),
    long_run=dict(max_steps=4),
    by_the_clock=dict(train_seconds=1),
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
    assert record["text"] == text_digest(STORIES) and record["data"] == STORIES
    assert (record["variant"], record["seed"], record["scale"]) == ("longer", 3, "tiny")
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


def test_mean_and_spread_by_hand():
    scores = ("a", 1.0), ("b", math.inf), ("a", 2.0), ("c", 5.0), ("b", 1.0), ("a", 6.0)
    records = [dict(variant=variant, bits_per_byte=bits) for variant, bits in scores]
    found = mean_and_spread(records)
    assert list(found) == ["a", "b", "c"]
    mean, spread, values = found["a"]
    assert mean == 3.0 and values == [1.0, 2.0, 6.0]
    assert math.isclose(spread, math.sqrt(7))  # (4 + 1 + 9) / (3 - 1)
    assert found["b"][0] == math.inf and math.isnan(found["b"][1]), "a diverged run is hidden"
    assert found["c"][0] == 5.0 and math.isnan(found["c"][1]), "one value has no spread"
    assert mean_and_spread(records, lambda record: 2 * record["bits_per_byte"])["a"][0] == 6.0


@pytest.mark.parametrize("scale", ["cpu", "t4"])
def test_every_variant_of_every_experiment_is_a_configuration(scale):
    for design in DESIGNS.values():
        variants = design(scale)
        assert len({variant.label for variant in variants}) == len(variants)
        for variant in variants:
            TransformerConfig(**SCALES[scale]["model"] | variant.model)
            TrainingConfig(**SCALES[scale]["training"] | variant.training)


def measured(log):
    "How often each run stands in a log."
    named = itemgetter("text", "variant", "seed")
    return Counter(named(record) for record in read_log(log))


def run_tiny(tmp_path, data=None, seeds=1):
    data = data or text_file(tmp_path / "sums", sums(60))
    log = tmp_path / "logs" / "log.jsonl"
    run_experiment("precision", data, "tiny", seeds, log, tmp_path / "cache")
    return measured(log)


def test_what_the_log_has_is_not_run_again(tmp_path):
    text = text_digest(text_file(tmp_path / "sums", sums(60)))
    assert run_tiny(tmp_path) == Counter([(text, "float32", 0), (text, "bfloat16", 0)])
    log = tmp_path / "logs" / "log.jsonl"
    before = log.read_bytes()
    run_tiny(tmp_path)
    assert log.read_bytes() == before
    both = run_tiny(tmp_path, seeds=2)
    assert log.read_bytes().startswith(before)
    assert len(both) == 4 and set(both.values()) == {1}
    assert {record["experiment"] for record in read_log(log)} == {"precision"}


def test_a_run_whose_line_was_cut_short_is_run_again(tmp_path):
    whole = run_tiny(tmp_path)
    log = tmp_path / "logs" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    assert len(measured(log)) == 1
    assert run_tiny(tmp_path) == whole
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line) for line in lines), "half a line is left"


def test_another_text_of_the_same_name_is_not_measured_yet(tmp_path):
    one = text_file(tmp_path / "a", sums(60))
    other = text_file(tmp_path / "b", sums(60, start=500))
    assert len(run_tiny(tmp_path, one)) == 2
    assert len(run_tiny(tmp_path, other)) == 4
    text_file(tmp_path / "b", sums(60, start=900))
    assert len(run_tiny(tmp_path, other)) == 6
    assert len(run_tiny(tmp_path, one)) == 6


def test_two_that_write_one_log_run_nothing_twice(tmp_path):
    together = [threading.Thread(target=run_tiny, args=(tmp_path,)) for _ in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    found = measured(tmp_path / "logs" / "log.jsonl")
    assert len(found) == 2 and set(found.values()) == {1}


@pytest.mark.parametrize(("name", "scale"), [("leraning_rate", "tiny"), ("parts", "huge")])
def test_a_name_that_is_not_there_is_refused(name, scale, tmp_path):
    with pytest.raises(InputError, match="choose one of"):
        run_experiment(name, STORIES, scale, 1, tmp_path / "log.jsonl", tmp_path / "cache")
    assert not list(tmp_path.iterdir())
