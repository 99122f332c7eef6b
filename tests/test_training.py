"The plain trainer against PyTorch's own parts, and the numbers that decide a run."

import json
import math
import os
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from lm336 import InputError, Trainer, TrainingConfig, Transformer, TransformerConfig
from lm336.configuration import PRESETS, load_preset
from lm336.run_folder import read_metrics
from lm336.runs import Run

from .conftest import ROOT

MODEL: dict[str, Any] = dict(
    vocab_size=300, context_length=32, d_model=32, num_layers=2, num_heads=2
)
TRAINING: dict[str, Any] = dict(
    max_steps=120,
    batch_size=8,
    learning_rate=5e-3,
    warmup_steps=5,
    save_interval=10,
    eval_interval=40,
    eval_windows=16,
)


def small(folder, tokens=None, **changes):
    "A plain trainer of a small model."
    torch.manual_seed(0)
    tokens = np.arange(4000) % 300 if tokens is None else tokens
    config = TrainingConfig(**TRAINING | changes)
    return Trainer(Transformer(TransformerConfig(**MODEL)), tokens, tokens, config, folder)


# the loop


def plain_loop(model, tokens, config, steps):
    "The same in the fewest lines: PyTorch's optimizer, loss and clipping, a schedule."
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=config.betas, weight_decay=config.weight_decay
    )
    context, measured = model.config.context_length, []
    for step in range(steps):
        starts = np.random.default_rng([config.seed, step]).integers(
            len(tokens) - context, size=config.batch_size
        )
        windows = torch.tensor(
            np.stack([tokens[s : s + context + 1] for s in starts]).astype(np.int64)
        )
        loss = torch.nn.functional.cross_entropy(
            model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        share = (step + 1 - config.warmup_steps) / (config.max_steps - config.warmup_steps)
        cosine = (
            config.min_learning_rate
            + (config.learning_rate - config.min_learning_rate)
            * (1 + math.cos(math.pi * share))
            / 2
        )
        optimizer.param_groups[0]["lr"] = (
            config.learning_rate * (step + 1) / config.warmup_steps if share <= 0 else cosine
        )
        optimizer.step()
        measured.append((loss.item(), norm.item()))
    return measured


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-9), (torch.float32, 1e-4)],
    ids=["float64", "float32"],
)
def test_ten_steps_equal_a_plain_loop_of_pytorchs_parts(tmp_path, dtype, tolerance):
    tokens = np.random.default_rng(0).integers(300, size=4000)
    trainer = small(
        tmp_path,
        tokens,
        max_steps=12,
        warmup_steps=4,
        weight_decay=0.5,
        betas=(0.7, 0.9),
        max_grad_norm=0.3,
        seed=3,
        learning_rate=2e-2,
        min_learning_rate=1e-3,
    )
    trainer.model.to(dtype)
    other = Transformer(trainer.model.config).to(dtype)
    other.load_state_dict(trainer.model.state_dict())
    expected = plain_loop(other, tokens, trainer.config, 10)
    found = [tuple(value.item() for value in trainer.train_step()) for _ in range(10)]
    assert max(norm for _, norm in expected) > 0.3, (
        "no gradient was clipped: this test would not see it"
    )
    assert np.allclose(found, expected, rtol=tolerance, atol=tolerance)
    for (name, ours), theirs in zip(trainer.model.named_parameters(), other.parameters()):
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance), name


def test_validation_windows_are_spread_over_the_text(tmp_path):
    "Each window counts the same, and they lie evenly from the text's beginning to its end."
    tokens = np.sort(np.random.default_rng(0).integers(300, size=33 + 15 * 200))
    trainer = small(tmp_path, tokens, eval_windows=16, batch_size=5)
    windows = torch.tensor(
        np.stack([tokens[200 * i : 200 * i + 33] for i in range(16)]).astype(np.int64)
    )
    with torch.no_grad():
        logits = trainer.model(windows[:, :-1])
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), windows[:, 1:].flatten()
    ).item()
    assert trainer.validate() == pytest.approx(expected, abs=1e-4)
    assert trainer.model.training, "the model was left in evaluation mode"


def test_a_fit_logs_every_interval_and_the_end(tmp_path):
    trainer = small(tmp_path, max_steps=25, log_interval=10, eval_interval=20)
    (tmp_path / "metrics.jsonl").write_text("of a start cut short\n")
    last = trainer.fit()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 25]
    assert [line["step"] for line in lines if "valid_loss" in line] == [0, 20, 25]
    assert last == lines[-1] and trainer.step == 25
    assert [line["learning_rate"] for line in lines if "loss" in line][-1] == pytest.approx(
        1e-4
    )


@pytest.mark.parametrize("kind", [Trainer, Run])
def test_a_run_stays_in_its_folder_wherever_the_program_goes(tmp_path, monkeypatch, kind):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = dict(max_steps=6, eval_interval=3, save_interval=3)
    config = TrainingConfig(**TRAINING | changes)
    tokens, model = np.arange(4000) % 300, Transformer(TransformerConfig(**MODEL))
    trainer = kind(model, tokens, tokens, config, "run")
    train_step = trainer.train_step

    def step():
        os.chdir(tmp_path / "elsewhere")
        return train_step()

    trainer.train_step = step
    trainer.fit()
    assert read_metrics(tmp_path / "run")[-1]["step"] == 6
    assert os.listdir() == []


def test_a_fit_goes_on_from_where_the_trainer_stands(tmp_path):
    whole, parts = (small(tmp_path / name, max_steps=12) for name in ("whole", "parts"))
    whole.fit()
    for _ in range(5):
        parts.train_step()
    parts.fit()
    for a, b in zip(whole.model.parameters(), parts.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("what", ["loss", "gradient's norm"])
def test_a_number_that_is_not_finite_stops_before_the_update(tmp_path, what):
    healthy, doomed = (small(tmp_path / name) for name in ("healthy", "doomed"))
    for _ in range(6):
        healthy.train_step()
    if what == "loss":

        def broken(_, inputs: tuple, logits: Any) -> torch.Tensor:
            return logits * (math.nan if doomed.step == 6 else 1)

        doomed.model.lm_head.register_forward_hook(broken)
    else:
        doomed.model.ln_final.weight.register_hook(
            lambda g: g * (math.nan if doomed.step == 6 else 1)
        )
    with pytest.raises(
        FloatingPointError,
        match=f"the {what} became nan at step 7 .*no update was made; a lower learning rate",
    ):
        doomed.fit()
    assert doomed.step == 6
    for a, b in zip(healthy.model.parameters(), doomed.model.parameters()):
        assert torch.equal(a, b)


def test_a_jump_of_the_loss_is_a_warning(tmp_path):
    trainer = small(tmp_path)
    for step in range(50):
        trainer.watch(step, 1e-3, 2.0 + 0.1 * (step % 2), 1.0)
    trainer.watch(50, 1e-3, 2.5, 1.0)  # half a nat is not yet a jump
    with pytest.warns(
        UserWarning,
        match=r"jumped from 2\.0\d+ to 3\.500 at step 51 with a learning rate of 1\.00e-03",
    ):
        trainer.watch(51, 1e-3, 3.5, 1.0)


def test_a_text_that_is_no_longer_than_the_context_is_refused(tmp_path):
    tokens = np.arange(33)
    small(tmp_path, tokens)
    with pytest.raises(
        InputError, match="the training text has 32 tokens: a context of 32 needs at least 33"
    ):
        small(tmp_path, tokens[:32])


# configuration

REFUSED = [
    (dict(max_steps=True), "training.max_steps is True"),
    (dict(seed=2**64), "training.seed is"),
    (dict(seed=-1), "training.seed is -1"),
    (
        dict(learning_rate=5e-5),
        "training.min_learning_rate 0.0001 is more than learning_rate 5e-05",
    ),
    (dict(learning_rate=False), "training.learning_rate is False"),
    (dict(learning_rate=math.nan), "training.learning_rate is nan"),
    (dict(learning_rate=10**400), "training.learning_rate is"),
    (dict(weight_decay="0.1"), "training.weight_decay is '0.1'"),
    (dict(betas=(0.9, 1.0)), "training.betas"),
    (dict(betas=0.9), "training.betas"),
    (dict(betas=[0.9, "0.95"]), "training.betas"),
    (dict(betas=None), "training.betas"),
    (dict(precision=["auto"]), "training.precision"),
    (dict(train_seconds=0), "training.train_seconds is 0"),
    (dict(train_seconds=math.inf), "training.train_seconds is inf"),
    (dict(batch_size=2.0), "training.batch_size is 2.0"),
    (dict(warmup_steps=None), "training.warmup_steps is None"),
]


@pytest.mark.parametrize("change, words", REFUSED, ids=[str(*change) for change, _ in REFUSED])
def test_a_configuration_without_sense_is_refused_when_made(change, words):
    with pytest.raises(InputError) as error:
        TrainingConfig(**change)
    assert words in str(error.value) and len(str(error.value)) < 200


def test_every_seed_that_pytorch_takes_is_one():
    torch.manual_seed(TrainingConfig(seed=2**64 - 1).seed)  # one more is refused above


def test_numbers_of_numpy_are_numbers():
    numbers: dict[str, Any] = dict(max_steps=np.int64(700), learning_rate=np.float32(0.5))
    config = TrainingConfig(**numbers)
    assert (
        json.loads(json.dumps(asdict(config)))["max_steps"] == 700
        and config.learning_rate == 0.5
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_file_that_a_copy_of_it_equals(name, tmp_path):
    (tmp_path / "mine.json").write_text(
        (ROOT / "lm336" / "presets" / f"{name}.json").read_text()
    )
    assert load_preset(tmp_path / "mine.json") == load_preset(name)


def test_overrides_of_a_preset_keep_its_shares():
    _, model, config = load_preset(
        "tinystories_t4",
        max_steps=200,
        learning_rate=1e-3,
        context_length=64,
        seed=None,
        precision="float32",
    )
    assert model.context_length == 64 and (config.seed, config.precision) == (0, "float32")
    assert (config.max_steps, config.warmup_steps) == (200, 20)
    assert (config.learning_rate, config.min_learning_rate) == pytest.approx((1e-3, 2e-4))
    assert load_preset("tinystories_t4", max_steps=200, warmup_steps=7)[2].warmup_steps == 7
    assert (
        load_preset("tinystories_t4", learning_rate=1e-3, min_learning_rate=5e-4)[
            2
        ].min_learning_rate
        == 5e-4
    )
    narrow = load_preset("demo_cpu", d_model=60)[1]
    assert narrow == TransformerConfig(4096, 256, 60, 4, 5), (
        "the width of the feed-forward part follows where the preset leaves it open"
    )
    for bad, words in (
        (dict(max_step=3), "max_step"),
        (dict(max_steps=0), "max_steps is 0"),
        (dict(vocab_size="x"), "vocab_size is 'x'"),
        (dict(learning_rate="x"), "learning_rate is 'x'"),
    ):
        with pytest.raises(InputError, match=words):
            load_preset("tinystories_t4", **bad)


PRESET = dict(data="stories:0.2", model=MODEL, training=TRAINING)
MUTATIONS = [
    ("{", "is not JSON"),
    ("[]", "object"),
    ("null", "object"),
    ("\ufeff{}", "keys data, model and training"),
    (json.dumps(PRESET | dict(model=None)), "model is None"),
    (json.dumps(PRESET | dict(training=[1])), r"training is \[1\]"),
    (json.dumps(PRESET | dict(data=5)), "data is 5"),
    (json.dumps(PRESET | dict(data=None)), "data is None"),
    (json.dumps(PRESET | dict(more=1)), "keys data, model and training"),
    (json.dumps(PRESET | dict(training=TRAINING | dict(seed=2**64))), "seed"),
    (json.dumps(PRESET | dict(training=TRAINING | dict(learning_rate=math.nan))), "NaN"),
    (json.dumps(PRESET | dict(training=TRAINING | dict(steps=1))), "no field 'steps'"),
    (json.dumps(PRESET | dict(model=dict(vocab_size=300))), "context_length"),
    ("[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize("text, words", MUTATIONS, ids=range(len(MUTATIONS)))
def test_a_preset_that_is_none_gets_a_sentence(tmp_path, text, words):
    (tmp_path / "preset.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        load_preset(tmp_path / "preset.json")


def test_the_reference_preset_is_the_reference():
    data, model, training = load_preset("tinystories_t4")
    assert data == "tinystories"
    assert (
        model.vocab_size,
        model.context_length,
        model.d_model,
        model.num_layers,
        model.num_heads,
        model.d_ff,
        model.rope_theta,
    ) == (32_000, 256, 512, 4, 16, 1344, 10_000)
    assert (training.max_steps, training.batch_size, training.warmup_steps) == (5_000, 32, 500)
    assert (
        training.learning_rate,
        training.min_learning_rate,
        training.weight_decay,
        training.max_grad_norm,
    ) == (5e-4, 1e-4, 0.01, 1.0)


def test_the_tuned_preset_is_the_references_model_and_budget_with_another_recipe():
    data, model, training = load_preset("tinystories_t4")
    other_data, other_model, other = load_preset("tinystories_t4_tuned")
    assert (other_data, other_model) == (data, model)
    assert (other.max_steps, other.batch_size) == (training.max_steps, training.batch_size)
    assert (other.learning_rate, other.min_learning_rate) == (2e-3, 0)
    assert (other.warmup_steps, other.weight_decay, other.betas) == (250, 0.1, (0.9, 0.999))


def test_the_courses_preset_reads_as_many_tokens_as_the_course():
    data, model, training = load_preset("tinystories_cs336")
    assert (data, model.vocab_size) == ("tinystories", 10_000)
    _, reference, _ = load_preset("tinystories_t4")
    assert replace(model, vocab_size=reference.vocab_size) == reference
    tokens = training.max_steps * training.batch_size * model.context_length
    assert tokens == 327_680_000, "CS336, assignment 1, section 7.2"
