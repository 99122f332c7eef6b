"Runs under real faults, through the command line where a person would meet them."

import json
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lm336 import InputError, Run, TrainingConfig, Transformer, TransformerConfig, fast_model
from lm336.adamw import AdamW
from lm336.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint
from lm336.devices import pick_device, pick_precision
from lm336.fast_model import library_is_there, product_library
from lm336.run_folder import read_metrics

from .conftest import ROOT
from .test_commands import refuses, succeeds
from .test_training import plain_loop

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


class Command(subprocess.Popen):
    "A process that writes to files, not pipes: nobody need read them for it to go on."

    files: tuple


def lm336(command, *args, **kwargs):
    "One of the commands, in a process of its own, as a person would type it."
    code = "import sys; from lm336.cli import main; main(sys.argv[1], sys.argv[2:])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = tempfile.TemporaryFile("w+")  # noqa: SIM115
    err = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = Command(
        [sys.executable, "-c", code, command, *map(str, args)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        **kwargs,
    )
    process.files = out, err
    return process


def finish(process):
    "Wait for a command; its exit status, output and errors."
    try:
        process.wait(timeout=240)
    finally:
        process.kill()
    for file in process.files:
        file.seek(0)
    return process.returncode, *(file.read() for file in process.files)


@contextmanager
def one_thread():
    "As in the processes above: on several threads, sums are taken in another order."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    "A run of a few seconds on a text of twelve hundred sums."
    folder = tmp_path_factory.mktemp("preset")
    (folder / "sums.txt").write_text(
        "".join(f"{a} and {b} make {a + b}.\n" for a in range(40) for b in range(30))
    )
    (folder / "tiny.json").write_text(
        json.dumps(dict(data=str(folder / "sums.txt"), model=MODEL, training=TRAINING))
    )
    return folder / "tiny.json"


@pytest.fixture(scope="session")
def unbroken(preset, tmp_path_factory):
    "The run folder of that preset, from beginning to end."
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    status, out, err = finish(lm336("pretrain", "--preset", preset, "--out", folder))
    assert status == 0, err
    return folder


def measured(folder):
    "The metrics without what may differ between two equal runs, time and memory."
    return [
        {
            k: v
            for k, v in line.items()
            if k not in ("seconds", "tokens_per_second", "peak_bytes")
        }
        for line in read_metrics(folder)
    ]


@pytest.mark.parametrize("seed", range(int(os.environ.get("LM336_KILLS", 3))))
def test_killed_and_resumed_is_bit_identical(preset, unbroken, tmp_path, seed):
    "Killed at a random moment after the first checkpoint: LM336_KILLS=20 does it 20 times."
    process = lm336("pretrain", "--preset", preset, "--out", tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    while not list(checkpoints.glob("step_*.safetensors")):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.kill()
    finish(process)
    for path in checkpoints.glob("*.safetensors"):
        read_checkpoint(path)  # none is half-written
    with one_thread():
        out = succeeds("pretrain", "--resume", "--out", tmp_path / "run")
    assert "resumed at step" in out
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        unbroken / "model.safetensors"
    ).read_bytes()
    assert measured(tmp_path / "run") == measured(unbroken)
    assert not list((tmp_path / "run").rglob(".lm336-unfinished-*")), (
        "what the killed process left is cleared away"
    )


def test_killed_before_the_first_checkpoint_and_begun_again(preset, unbroken, tmp_path):
    endless = (
        "--max_steps",
        10**6,
        "--save_interval",
        10**6,
    )  # whatever the machine, it is killed before its end
    process = lm336("pretrain", "--preset", preset, "--out", tmp_path / "run", *endless)
    while not read_metrics(tmp_path / "run"):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    process.kill()
    finish(process)
    said = refuses("pretrain", "--resume", "--out", tmp_path / "run")
    assert "has no checkpoint to resume from: start the run without --resume" in said
    with one_thread():
        succeeds("pretrain", "--preset", preset, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        unbroken / "model.safetensors"
    ).read_bytes()
    assert measured(tmp_path / "run") == measured(unbroken), (
        "do the lines of the first attempt stand before those of the second?"
    )


def small(folder, tokens=None, precision="float32", model=MODEL, **changes):
    torch.manual_seed(0)
    tokens = np.arange(4000) % 300 if tokens is None else tokens
    settings: dict[str, Any] = TRAINING | dict(precision=precision) | changes
    return Run(
        Transformer(TransformerConfig(**model)),
        tokens,
        tokens,
        TrainingConfig(**settings),
        folder,
        device="cpu",
    )


def newest(trainer) -> Path:
    "Its last checkpoint, which must be there."
    path = trainer.last_checkpoint()
    assert path is not None, "no checkpoint was written"
    return path


def two_processes(*args):
    "A run as torchrun starts it."
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "lm336", "pretrain", *map(str, args)],
        text=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_equal_one(preset, tmp_path):
    "On the same batches, the same weights and losses but for rounding; one writes; resumed."
    run = json.loads(preset.read_text())
    run["training"] |= dict(
        max_steps=20, precision="float32", gradient_accumulation_steps=2, eval_interval=10
    )
    (tmp_path / "preset.json").write_text(json.dumps(run))
    args = "--preset", tmp_path / "preset.json", "--out"
    succeeds("pretrain", *args, tmp_path / "one")
    two_processes(*args, tmp_path / "two")
    one, two = (
        Transformer.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two")
    )
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-3
    lines = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]], (
        "did both processes write?"
    )
    for a, b in zip(
        *([line["valid_loss"] for line in each if "valid_loss" in line] for each in lines)
    ):
        assert abs(a - b) < 1e-3
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    max((tmp_path / "again" / "checkpoints").iterdir()).unlink()
    (
        tmp_path / "again" / "checkpoints" / ".lm336-unfinished-abcd0123"
    ).mkdir()  # of a save cut short
    assert (
        two_processes("--resume", "--out", tmp_path / "again").count("resumed at step 10") == 1
    )
    again = Transformer.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(two[name], again[name]) for name in two)


def test_accumulation_equals_one_large_batch(tmp_path):
    weights = []
    for k in (1, 4):
        trainer = small(tmp_path / str(k), gradient_accumulation_steps=k)
        trainer.model.double()
        for _ in range(5):
            trainer.train_step()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(*weights, rtol=0, atol=1e-9)


def test_float16_overflow_is_skipped_counted_and_recovered_from(tmp_path):
    trainer = small(tmp_path, precision="float16")
    trainer.train_step()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.update.scaler.update(2.0**30)  # gradients overflow float16 for sure
    trainer.train_step()
    assert trainer.update.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters())), (
        "a skipped update moved the weights"
    )
    assert trainer.optimizer.state[trainer.model.lm_head.weight]["step"] == 1, (
        "a skipped update was counted by the optimizer"
    )
    trainer.waiting.append((2, 1e-3, torch.tensor(1.0), torch.tensor(1.0)))
    trainer.flush()
    assert read_metrics(tmp_path)[-1]["skipped"] == 1
    trainer.save()
    resumed = small(tmp_path, precision="float16")
    assert (
        resumed.resume() == 2
        and resumed.update.skipped == 1
        and resumed.update.scaler.get_scale() == trainer.update.scaler.get_scale()
    )
    for _ in range(60):
        trainer.train_step()
    assert trainer.update.skipped < 40 and not all(
        torch.equal(a, b) for a, b in zip(before, trainer.model.parameters())
    )


@contextmanager
def largest_file(size):
    "No file may become larger: the kernel ends the write in the middle, as a full disk does."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_write_that_ends_in_the_middle_leaves_the_last_checkpoint(tmp_path, share):
    trainer = small(tmp_path)
    trainer.save()
    good, weights = newest(trainer), (tmp_path / "model.safetensors").read_bytes()
    before = good.read_bytes()
    trainer.train_step()
    words = "step 1 could not be saved: .*File too large.*checkpoint is .*step_00000000"
    with largest_file(int(len(before) * share)), pytest.raises(OSError, match=words):
        trainer.save()
    assert (
        newest(trainer) == good
        and good.read_bytes() == before
        and (tmp_path / "model.safetensors").read_bytes() == weights
    )
    assert not list(tmp_path.rglob(".*")), "half a file was left"
    trainer.save()
    assert small(tmp_path).resume() == 1


@contextmanager
def small_disk(folder, kilobytes):
    "A file system of its own in `folder`. It takes the right to mount one."
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_reported_and_the_run_goes_on_from_the_last_checkpoint(
    preset, unbroken, tmp_path
):
    sizes = {path: path.stat().st_size for path in unbroken.rglob("*") if path.is_file()}
    checkpoint = max(size for path, size in sizes.items() if path.parent.name == "checkpoints")
    room = sum(sizes.values()) + checkpoint // 2  # two checkpoints lie there, a third is begun
    with small_disk(tmp_path / "disk", room // 1024):
        run = tmp_path / "disk" / "run"
        status, out, err = finish(lm336("pretrain", "--preset", preset, "--out", run))
        message = err.strip().splitlines()[-1]
        assert status == 1 and "Traceback" not in err, err
        assert (
            "No space left on device" in message and "the last good checkpoint is" in message
        ), err
        step, _ = load_checkpoint(
            message.split("checkpoint is ")[1],
            *(lambda t: (t.model, t.optimizer))(small(tmp_path / "other")),
        )
        assert step == 20
        subprocess.run(["mount", "-o", "remount,size=100m", tmp_path / "disk"], check=True)
        with one_thread():
            out = succeeds("pretrain", "--resume", "--out", run)
        assert f"resumed at step {step}" in out
        assert (run / "model.safetensors").read_bytes() == (
            unbroken / "model.safetensors"
        ).read_bytes()
        assert measured(run) == measured(unbroken)


def test_every_truncation_of_a_checkpoint_is_refused(tmp_path):
    trainer = small(tmp_path)
    trainer.train_step()
    trainer.save()
    whole = newest(trainer).read_bytes()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut"):
            load_checkpoint(tmp_path / "cut", trainer.model, trainer.optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


def test_tied_embeddings_train_and_resume(tmp_path):
    tied = MODEL | dict(tie_embeddings=True)
    trainer = small(tmp_path, model=tied, max_steps=20)
    trainer.fit()
    again = small(tmp_path, model=tied, max_steps=20)
    assert again.resume() == 20
    assert torch.equal(again.model.lm_head.weight, again.model.token_embeddings.weight)


@pytest.mark.parametrize(
    "capability, expected", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_precision_goes_by_compute_capability(monkeypatch, capability, expected):
    monkeypatch.delenv("LM336_PRECISION", raising=False)  # which would come first
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: True)  # what a T4 says
    assert pick_precision(torch.device("cuda")) == expected


def test_a_bad_input_ends_a_process_with_one_sentence(preset, unbroken):
    "What each says is seen in tests/test_commands.py, without a process for each."
    status, _, err = finish(lm336("pretrain", "--preset", preset, "--out", unbroken))
    message = err.strip().splitlines()[-1]
    assert status == 1 and "Traceback" not in err and "--resume" in message, err


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_truncated_weights_and_checkpoint(unbroken, tmp_path):
    for damaged, command in (
        ("model.safetensors", ["evaluate"]),
        ("checkpoints", ["pretrain", "--resume", "--out"]),
    ):
        run = copy_of(unbroken, tmp_path / damaged)
        path, command = run / damaged, [*command, run]
        if path.is_dir():
            path = max(path.iterdir())
        path.write_bytes(path.read_bytes()[:-100])
        assert path.name in refuses(*command)


def test_a_config_that_disagrees(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    for name, part in (("run.json", "training"), ("config.json", None)):
        values = json.loads((run / name).read_text())
        (values[part] if part else values).update(
            {"learning_rate": 1e-3} if part else {"d_model": 64}
        )
        (run / name).write_text(json.dumps(values))
    said = refuses("pretrain", "--resume", "--out", run)
    assert "training.learning_rate is 0.001 now and 0.005" in said
    assert "shape" in refuses("evaluate", run)


def test_nan_stops_and_keeps_the_last_checkpoint(preset, tmp_path):
    wild = json.loads(preset.read_text())
    wild["training"] |= dict(learning_rate=1e30, min_learning_rate=1e30, warmup_steps=100)
    wild["training"]["save_interval"] = 1
    (tmp_path / "wild.json").write_text(json.dumps(wild))
    args = "--preset", tmp_path / "wild.json", "--out", tmp_path / "run"
    message = refuses("pretrain", *args)
    assert "no update was made" in message and "learning rate" in message
    kept = message.split("checkpoint is ")[1].split(";")[0]
    trainer = small(tmp_path / "other")
    assert load_checkpoint(kept, trainer.model, trainer.optimizer)[0] > 0


def test_a_spike_keeps_the_checkpoint_before_it(tmp_path):
    trainer = small(tmp_path)
    trainer.save()
    for step in range(50):
        trainer.watch(step, 1e-3, 2.0 + 0.1 * (step % 2), 1.0)
    with pytest.warns(
        UserWarning,
        match=r"jumped from 2\.050 to 2\.700 at step 50 with a learning rate of 1\.00e-03",
    ):
        trainer.watch(50, 1e-3, 2.7, 1.0)
    assert len(list((tmp_path / "checkpoints").glob("before_spike_*"))) == 1
    with pytest.raises(FloatingPointError, match="the loss became inf at step 51"):
        trainer.watch(51, 1e-3, float("inf"), 1.0)


# the loop against PyTorch's own parts


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-9), (torch.float32, 1e-4)],
    ids=["float64", "float32"],
)
def test_ten_steps_equal_a_plain_loop_of_pytorchs_parts(
    tmp_path, dtype, tolerance, accumulation
):
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
        gradient_accumulation_steps=accumulation,
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
    "Of a text whose parts differ: each counts the same, evenly from beginning to end."
    tokens = np.sort(np.random.default_rng(0).integers(300, size=33 + 15 * 200))
    trainer = small(tmp_path, tokens, eval_windows=16)
    for _ in range(20):
        trainer.train_step()
    windows = torch.tensor(
        np.stack([tokens[200 * i : 200 * i + 33] for i in range(16)]).astype(np.int64)
    )
    with torch.no_grad():
        logits = trainer.model(windows[:, :-1])
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), windows[:, 1:].flatten()
    ).item()
    first = torch.nn.functional.cross_entropy(
        logits[:2].flatten(0, 1), windows[:2, 1:].flatten()
    ).item()
    assert abs(first - expected) > 0.01, (
        "all parts of this text look alike: this test would not see which were taken"
    )
    assert trainer.validate() == pytest.approx(expected, abs=1e-4)


# numbers that are not finite


def bad_gradient(trainer, steps):
    "Plant infinity in one parameter's gradient at these steps, counted from 1."
    trainer.model.ln_final.weight.register_hook(
        lambda g: g + math.inf if trainer.step + 1 in steps else g
    )


def bad_loss(trainer, steps):
    "Make the loss infinite at these steps, and leave its gradient as it is."
    trainer.update.objective.register_forward_hook(
        lambda _, inputs, loss: loss + math.inf if trainer.step + 1 in steps else loss
    )


def state_of(trainer):
    "Every weight, average and step count."
    state = trainer.optimizer.state
    averages = [
        state[p][name].clone()
        for p in trainer.model.parameters()
        if p in state
        for name in sorted(state[p])
    ]
    return [p.detach().clone() for p in trainer.model.parameters()] + averages


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize(
    "plant, words",
    [
        (bad_gradient, "the gradient's norm became inf at step 27"),
        (bad_loss, "the loss became inf at step 27"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_number_that_is_not_finite_stops_before_the_update(
    tmp_path, precision, plant, words
):
    "Losses are fetched every tenth step; yet weights, averages, counts are of step 26."
    healthy, doomed = (
        small(tmp_path / name, precision=precision) for name in ("healthy", "doomed")
    )
    for _ in range(26):
        healthy.train_step()
    plant(doomed, [27])
    with pytest.raises(
        FloatingPointError, match=words + r".*the last good checkpoint is .*step_00000020"
    ):
        doomed.fit()
    assert same(state_of(healthy), state_of(doomed))
    assert doomed.step == 30, "the step is named only where the numbers are fetched"
    with pytest.raises(FloatingPointError, match="not saved"):
        doomed.save()
    assert newest(doomed).name == "step_00000020.safetensors"
    assert small(tmp_path / "doomed", precision=precision).resume() == 20


def test_a_loss_that_is_not_finite_stops_float16_too(tmp_path):
    trainer = small(tmp_path, precision="float16")
    bad_loss(trainer, [7])
    with pytest.raises(FloatingPointError, match="the loss became inf at step 7"):
        trainer.fit()
    assert trainer.optimizer.state[trainer.model.lm_head.weight]["step"] == 6


@pytest.mark.parametrize("count", [19, 20])
def test_the_twentieth_overflow_in_a_row_stops_float16(tmp_path, count):
    trainer = small(tmp_path, precision="float16", max_steps=40)
    bad_gradient(trainer, range(6, 6 + count))
    if count < 20:
        trainer.fit()
        assert trainer.update.skipped == count and [
            line["skipped"] for line in read_metrics(tmp_path) if "skipped" in line
        ] == [5, 15, 19, 19]
        return
    with pytest.raises(
        FloatingPointError,
        match="overflowed 20 times in a row in float16, the last time at step 25",
    ):
        trainer.fit()
    assert trainer.optimizer.state[trainer.model.lm_head.weight]["step"] == 10, (
        "five before, five until the numbers are fetched"
    )
    for path in tmp_path.rglob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values()), path


def test_no_checkpoint_with_a_number_that_is_not_finite_is_written_or_read(tmp_path):
    trainer = small(tmp_path)
    trainer.train_step()
    trainer.save()
    good = newest(trainer)
    trainer.step += 1
    trainer.model.lm_head.weight.data[0, 0] = math.nan
    with pytest.raises(
        FloatingPointError,
        match="step 2 cannot be saved: model.lm_head.weight .*checkpoint is .*step_00000001",
    ):
        trainer.save()
    assert newest(trainer) == good
    tensors, metadata = load_file(good), safe_open(good, "pt").metadata()
    tensors["optimizer.0.exp_avg_sq"][0] = math.inf
    save_file(
        tensors, good, {"lm336": metadata["lm336"]}
    )  # as the first edition wrote it, without a digest
    with pytest.raises(
        InputError, match="a number in optimizer.0.exp_avg_sq that is not finite"
    ):
        small(tmp_path).resume()


# checkpoints


def test_one_flipped_bit_is_noticed_and_nothing_is_loaded(tmp_path):
    trainer = small(tmp_path)
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    data = bytearray(newest(trainer).read_bytes())
    data[len(data) // 2] ^= 1
    newest(trainer).write_bytes(data)
    other = small(tmp_path)
    before = state_of(other)
    with pytest.raises(InputError, match="step_00000003.safetensors is damaged"):
        other.resume()
    assert same(before, state_of(other)) and other.step == 0


def test_a_run_of_the_first_edition_goes_on(tmp_path):
    "Its checkpoints have no digest, seconds or precision, and know nothing of newer fields."
    trainer, expected = (
        small(tmp_path, max_steps=20),
        small(tmp_path / "unbroken", max_steps=20),
    )
    for each in (trainer, expected):
        for _ in range(5):
            each.train_step()
    trainer.save()
    path = newest(trainer)
    record = json.loads(safe_open(path, "pt").metadata()["lm336"])
    del (
        record["extra"]["seconds"],
        record["extra"]["precision"],
        record["extra"]["training"]["train_seconds"],
    )
    save_file(load_file(path), path, {"lm336": json.dumps(record)})
    resumed = small(tmp_path, max_steps=20)
    assert resumed.resume() == 5
    for each in (resumed, expected):
        each.train_step()
    assert same(state_of(resumed), state_of(expected))


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    trainer = small(tmp_path)
    trainer.train_step()
    trainer.save()
    path = newest(trainer)

    def refused(model, optimizer, words, source=path):
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(InputError, match=words):
            load_checkpoint(source, model, optimizer)
        assert same(before, list(model.parameters())) and not optimizer.state_dict()["state"]

    fresh = small(tmp_path / "other").model
    weights = list(fresh.parameters())
    refused(
        fresh,
        AdamW([dict(params=weights[:3]), dict(params=weights[3:])], lr=1e-3),
        r"groups of \[\d+\] parameters, this one of \[3, \d+\]",
    )
    refused(fresh, AdamW(weights[::-1], lr=1e-3), "in another order")
    wrapped: Any = torch.compile(fresh)
    refused(
        wrapped,
        AdamW(wrapped.parameters(), lr=1e-3),
        "model's weights begin with '_orig_mod.', which torch.compile",
    )
    save_checkpoint(wrapped, AdamW(fresh.parameters(), lr=1e-3), 1, tmp_path / "wrapped")
    refused(
        fresh,
        AdamW(fresh.parameters(), lr=1e-3),
        "checkpoint's weights begin with '_orig_mod.', which torch.compile",
        tmp_path / "wrapped",
    )
    shell = torch.nn.ModuleDict(dict(module=fresh))  # the names of DistributedDataParallel
    save_checkpoint(shell, AdamW(fresh.parameters(), lr=1e-3), 1, tmp_path / "parallel")
    refused(
        fresh,
        AdamW(fresh.parameters(), lr=1e-3),
        "begin with 'module.', which DistributedDataParallel",
        tmp_path / "parallel",
    )
    save_file(dict(a=torch.ones(2)), tmp_path / "foreign")
    refused(
        fresh,
        AdamW(fresh.parameters(), lr=1e-3),
        "is not a checkpoint of lm336",
        tmp_path / "foreign",
    )


@pytest.mark.parametrize(
    "first, then", [("bfloat16", "float16"), ("float32", "float16"), ("float16", "float32")]
)
def test_a_run_goes_on_where_auto_is_another_precision(tmp_path, monkeypatch, first, then):
    "As from a CPU to a T4: a fresh loss scale, and one line that says so."
    monkeypatch.setenv("LM336_PRECISION", first)
    trainer = small(tmp_path, precision="auto", max_steps=20)
    for _ in range(5):
        trainer.train_step()
    trainer.save()
    monkeypatch.setenv("LM336_PRECISION", then)
    resumed = small(tmp_path, precision="auto", max_steps=20)
    with pytest.warns(UserWarning, match=f"in {first} so far, and continues in {then}"):
        assert resumed.resume() == 5
    assert resumed.precision == then and same(state_of(trainer), state_of(resumed))
    resumed.fit()
    assert resumed.step == 20 and resumed.update.skipped < 15


@pytest.mark.parametrize("first, then", [("PyTorch", "oneDNN"), ("oneDNN", "PyTorch")])
def test_a_run_goes_on_with_the_library_that_it_began_with(tmp_path, monkeypatch, first, then):
    "So that it ends as if never stopped, whatever a measurement would say now."
    if not library_is_there("oneDNN"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(fast_model, "_decided", [first])
    whole = small(tmp_path / "whole", max_steps=8)
    whole.fit()
    part = small(tmp_path / "part", max_steps=8)
    for _ in range(4):
        part.train_step()
    part.save()
    assert read_checkpoint(newest(part))[1]["extra"]["products"] == part.products == first
    fast_model.decide_library(then)
    resumed = small(tmp_path / "part", max_steps=8)
    assert resumed.products == then
    resumed.resume()
    assert resumed.products == product_library() == first
    resumed.fit()
    assert same(state_of(whole), state_of(resumed))


def test_all_processes_of_a_run_go_by_the_library_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(fast_model, "_decided", ["oneDNN"])
    monkeypatch.setattr("lm336.fast_trainer.of_first_process", lambda library: "PyTorch")
    assert small(tmp_path).products == product_library() == "PyTorch"


def test_a_run_that_names_no_library_had_pytorchs(tmp_path, monkeypatch):
    monkeypatch.setattr(fast_model, "_decided", ["PyTorch"])
    trainer = small(tmp_path, max_steps=8)
    before = trainer.circumstances()
    del before["products"]
    monkeypatch.setattr(fast_model, "_decided", ["oneDNN"])
    trainer.return_to(before)
    assert trainer.products == product_library() == "PyTorch"


def test_a_run_that_has_ended_says_so_and_keeps_its_metrics(tmp_path, capsys):
    last = small(tmp_path, max_steps=20).fit()
    lines = read_metrics(tmp_path)
    again = small(tmp_path, max_steps=20)
    again.resume()
    assert again.fit() == last and read_metrics(tmp_path) == lines
    assert "had already ended, at step 20" in capsys.readouterr().out
    (tmp_path / "metrics.jsonl").unlink()  # then it is measured once more
    again = small(tmp_path, max_steps=20)
    again.resume()
    assert again.fit()["valid_loss"] == last["valid_loss"] and len(read_metrics(tmp_path)) == 1


@pytest.mark.parametrize(
    "line, words",
    [
        ('"loss"', "line 3: expected a JSON object"),
        ('{"loss": 1}', "a line without a step"),
        ('{"step": 1, "loss": []}', "loss is"),
        ('{"step": true}', "a line without a step"),
        ("[" * 100_000, "line 3"),
    ],
)
def test_a_foreign_line_of_metrics_is_named_before_anything_is_loaded(tmp_path, line, words):
    trainer = small(tmp_path, max_steps=20)
    trainer.fit()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    other = small(tmp_path, max_steps=20)
    before = state_of(other)
    with pytest.raises(InputError, match=words):
        other.resume()
    assert same(before, state_of(other)) and other.step == 0
    path.write_text(
        "\n".join(lines) + '\n{"step": 20, "lo'
    )  # cut off by a power cut: left out
    other.resume()
    assert read_metrics(tmp_path) == [json.loads(each) for each in lines]


def test_of_spikes_the_newest_two_are_kept(tmp_path):
    trainer = small(tmp_path)
    trainer.save()
    for step in range(30):
        trainer.watch(step, 1e-3, 2.0, 1.0)
    for step in (31, 32, 33, 34):
        with pytest.warns(UserWarning, match="jumped"):
            trainer.watch(step, 1e-3, 10.0 ** (step - 29), 1.0)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("before_spike_*"))
    assert kept == ["before_spike_00000033.safetensors", "before_spike_00000034.safetensors"]


def test_a_folder_where_the_curve_should_be_does_not_fail_a_finished_run(tmp_path):
    (tmp_path / "loss.png").mkdir()
    trainer = small(tmp_path, max_steps=20)
    with pytest.warns(UserWarning, match="has ended and is saved, but .*loss.png is a folder"):
        assert trainer.fit()["step"] == 20
    assert newest(trainer).name == "step_00000020.safetensors"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room on the card"), OSError("no room on the disk")]
)
def test_an_account_that_fails_does_not_fail_a_finished_run(tmp_path, monkeypatch, error):
    def failing(*args):
        raise error

    monkeypatch.setattr("lm336.report.matmul_speed", failing)
    trainer = small(tmp_path, max_steps=20)
    with pytest.warns(UserWarning, match="has ended and is saved, but .*no room"):
        assert trainer.fit()["step"] == 20
    assert (
        newest(trainer).name == "step_00000020.safetensors"
        and not (tmp_path / "accounting.json").exists()
    )


# a run that goes by the clock


class Clock:
    "Seconds that pass when the test says so."

    now = 1000.0

    def __call__(self):
        return self.now


def timed(folder, step_seconds, **changes):
    "A run of 60 seconds whose steps take what `step_seconds(step)` says, by its own clock."
    usual: dict[str, Any] = dict(
        precision="float32",
        max_steps=100,
        warmup_steps=10,
        train_seconds=60.0,
        log_interval=10,
        eval_interval=25,
        save_interval=50,
        min_learning_rate=1e-4,
    )
    clock = Clock()
    torch.manual_seed(0)
    tokens = np.arange(4000) % 300
    settings = TRAINING | usual | changes
    config = TrainingConfig(**settings)
    trainer = Run(
        Transformer(TransformerConfig(**MODEL)),
        tokens,
        tokens,
        config,
        folder,
        device="cpu",
        clock=clock,
    )
    step = trainer.train_step

    def slow_step():
        clock.now += step_seconds(trainer.step)
        return step()

    trainer.train_step = slow_step
    return trainer


def rates(folder):
    "Every step's learning rate, from the log."
    return [rate for line in read_metrics(folder) for rate in line.get("learning_rates", [])]


@pytest.mark.parametrize(
    "slow", [0, 30, 90], ids=["at the start", "in the middle", "at the end"]
)
def test_a_busy_moment_costs_a_timed_run_only_itself(tmp_path, slow):
    "The schedule is that of the time: full warm-up, full cosine, and an end in time."
    trainer = timed(tmp_path, lambda step: 12.0 if step == slow else 0.5)
    trainer.fit()
    starts = [
        0.5 * step if step <= slow else 0.5 * step + 11.5 for step in range(trainer.step)
    ]  # seconds before each step
    expected = []
    for share in (seconds / 60 for seconds in starts):
        cosine = 1e-4 + (5e-3 - 1e-4) * (1 + math.cos(math.pi * (share - 0.1) / 0.9)) / 2
        expected.append(5e-3 * share / 0.1 if share < 0.1 else cosine)
    assert rates(tmp_path) == pytest.approx(expected)
    assert 97 <= trainer.step <= 98 and 0.9 <= trainer.seconds / 60 <= 1.05
    looks = [line["seconds"] for line in read_metrics(tmp_path) if "valid_loss" in line]
    assert len(looks) == 5 and looks[-1] >= 60, "looks are due by the share of time, too"
    assert read_metrics(tmp_path)[-1]["step"] == trainer.step
    assert newest(trainer).name == f"step_{trainer.step:08}.safetensors"


def test_a_timed_run_counts_its_looks_and_ends_once(tmp_path):
    "A look that takes longer than what is left: the run ends there, looked at once, saved."
    trainer = timed(tmp_path, lambda step: 1.0, eval_interval=90)
    look, clock = trainer.validate, trainer.clock
    assert isinstance(clock, Clock)

    def slow_look():
        clock.now += 10.0
        return look()

    trainer.validate = slow_look
    trainer.fit()
    assert trainer.step == 44 and [
        line["step"] for line in read_metrics(tmp_path) if "valid_loss" in line
    ] == [0, 44]
    assert newest(trainer).name == "step_00000044.safetensors"


def test_a_timed_run_resumes_with_the_seconds_already_spent(tmp_path):
    class PowerCut(Exception):
        pass

    def power_cut(step):
        if step == 80:
            raise PowerCut
        return 0.5

    with pytest.raises(PowerCut):
        timed(tmp_path, power_cut).fit()
    resumed = timed(tmp_path, lambda step: 1.0)
    assert resumed.resume() == 60 and resumed.seconds == 30.0
    resumed.fit()
    assert (
        resumed.step == 90 and resumed.seconds == 60.0
    )  # thirty more seconds, of one step each
    assert len(rates(tmp_path)) == 90
    ended = timed(tmp_path, lambda step: 1.0)
    ended.resume()
    assert ended.ended()


def test_step_driven_runs_know_no_clock(tmp_path):
    "The same weights and measurements, however long each step takes."
    quick, slow = (
        timed(tmp_path / name, lambda step, s=seconds: s, train_seconds=None, max_steps=30)
        for name, seconds in (("quick", 0.1), ("slow", 1e4))
    )
    for trainer in (quick, slow):
        trainer.fit()
    assert same(state_of(quick), state_of(slow)) and measured(tmp_path / "quick") == measured(
        tmp_path / "slow"
    )
    assert rates(tmp_path / "quick") == []


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:1", "meta", "cuda:x"])
def test_a_device_that_is_not_here_gets_a_sentence(name):
    with pytest.raises(InputError, match="^device "):
        pick_device(name)


def test_devices_by_name(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu") == pick_device(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device() == pick_device("cuda") == torch.device("cuda", 1) and pick_device(
        "cuda:0"
    ) == torch.device("cuda", 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_environment_decides_the_precision(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LM336_PRECISION", name)
    assert pick_precision(torch.device("cpu")) == name
    assert small(tmp_path, precision="auto").precision == name
    assert small(tmp_path, precision="float32").precision == "float32", (
        "what the configuration says comes first"
    )
    monkeypatch.setenv("LM336_PRECISION", "half")
    with pytest.raises(
        InputError,
        match="LM336_PRECISION is 'half': one of auto, float32, bfloat16, float16 is needed",
    ):
        pick_precision(torch.device("cpu"))


# several processes

GROUP = """
import atexit, os, sys, time
import torch, torch.distributed as dist
from lm336.devices import pick_device, process_group, processes
rank, count = processes()
def tell():
    print(f"{rank} of {count}: still joined {dist.is_initialized()}", flush=True)
atexit.register(tell)    # runs after what is registered later
if rank == 0: time.sleep(1)    # as if it were preparing a text, before there is a group
process_group(pick_device("cpu"))
dist.barrier()
if len(sys.argv) > 1 and rank == 1: os.kill(os.getpid(), 9)
if len(sys.argv) > 1: dist.barrier()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_group_waits_for_its_first_process_and_is_left_at_the_end(tmp_path, killed):
    (tmp_path / "group.py").write_text(GROUP)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        tmp_path / "group.py",
        *["kill"] * killed,
    ]
    done = subprocess.run(
        launch,
        text=True,
        capture_output=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    if killed:
        assert done.returncode != 0, "one process was killed, and nobody noticed"
    else:
        assert done.returncode == 0, done.stderr
        assert sorted(re.findall(r"(\d) of 2: still joined False", done.stdout)) == [
            "0",
            "1",
        ], done.stdout  # lines may run into each other
