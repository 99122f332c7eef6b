"The trainer under real faults, through the command line where a person would meet them."
import json, math, os, random, resource, shutil, subprocess, sys, tempfile, time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lm336 import InputError, Trainer, TrainingConfig, Transformer, TransformerConfig, cli, training
from lm336.corpus import StoryGrammar, iter_documents
from lm336.training import Objective, counted_flops, load_checkpoint, load_preset, pick_precision, read_checkpoint, read_metrics
from lm336.transformer import flops_per_token

from .conftest import ROOT

MODEL = dict(vocab_size=300, context_length=32, d_model=32, num_layers=2, num_heads=2)
TRAINING = dict(max_steps=120, batch_size=8, learning_rate=5e-3, warmup_steps=5, save_interval=10, eval_interval=40, eval_windows=16)


def lm336(command, *args, **kwargs):
    "One of the commands, in a process of its own, as a person would type it."
    code = "import sys; from lm336.cli import main; main(sys.argv[1], sys.argv[2:])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, command, *map(str, args)], env=environment, stdin=subprocess.DEVNULL,
                               stdout=(out := tempfile.TemporaryFile("w+")), stderr=(err := tempfile.TemporaryFile("w+")), **kwargs)
    process.files = out, err      # files, not pipes: nobody need read them for the command to go on
    return process


def finish(process):
    "Wait for a command; its exit status, output and errors."
    try: process.wait(timeout=240)
    finally: process.kill()
    for file in process.files: file.seek(0)
    return process.returncode, *(file.read() for file in process.files)


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    "A run of a few seconds on a text of twelve hundred sums."
    folder = tmp_path_factory.mktemp("preset")
    (folder / "sums.txt").write_text("".join(f"{a} and {b} make {a + b}.\n" for a in range(40) for b in range(30)))
    (folder / "tiny.json").write_text(json.dumps(dict(data=str(folder / "sums.txt"), model=MODEL, training=TRAINING)))
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
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second", "peak_bytes")} for line in read_metrics(folder)]


@pytest.mark.parametrize("seed", range(int(os.environ.get("LM336_KILLS", 3))))
def test_killed_and_resumed_is_bit_identical(preset, unbroken, tmp_path, seed):
    "Killed at a random moment after the first checkpoint: LM336_KILLS=20 does it twenty times."
    process = lm336("pretrain", "--preset", preset, "--out", tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    while not list(checkpoints.glob("step_*.safetensors")):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.kill()
    finish(process)
    for path in checkpoints.glob("*.safetensors"): read_checkpoint(path)                 # none is half-written
    status, out, err = finish(lm336("pretrain", "--resume", "--out", tmp_path / "run"))
    assert status == 0, err
    assert "resumed at step" in out
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert measured(tmp_path / "run") == measured(unbroken)
    assert not list((tmp_path / "run").rglob(".*.tmp")), "what the killed process left is cleared away"


def test_killed_before_the_first_checkpoint_and_begun_again(preset, unbroken, tmp_path):
    run = json.loads(preset.read_text())
    run["training"]["save_interval"] = 60
    (tmp_path / "preset.json").write_text(json.dumps(run))
    process = lm336("pretrain", "--preset", tmp_path / "preset.json", "--out", tmp_path / "run")
    while not read_metrics(tmp_path / "run"):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    process.kill()
    finish(process)
    assert not list((tmp_path / "run" / "checkpoints").glob("step_*")), "killed too late for this test"
    status, _, err = finish(lm336("pretrain", "--resume", "--out", tmp_path / "run"))
    assert status == 1 and "has no checkpoint to resume from: start the run without --resume" in err, err
    status, _, err = finish(lm336("pretrain", "--preset", tmp_path / "preset.json", "--out", tmp_path / "run"))
    assert status == 0, err
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert measured(tmp_path / "run") == measured(unbroken), "do the lines of the first attempt stand before those of the second?"


def small(folder, tokens=None, precision="float32", model=MODEL, **changes):
    torch.manual_seed(0)
    tokens = np.arange(4000) % 300 if tokens is None else tokens
    return Trainer(Transformer(TransformerConfig(**model)), tokens, tokens, TrainingConfig(**(TRAINING | dict(precision=precision) | changes)), folder, device="cpu")


def processes(count, *args):
    "The trainer as torchrun starts it, or for one process as python does."
    launch = [sys.executable, "-m"] + ["torch.distributed.run", "--standalone", f"--nproc_per_node={count}", "-m"] * (count > 1)
    done = subprocess.run([*launch, "lm336.training", *map(str, args)], text=True, capture_output=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_equal_one(preset, tmp_path):
    "torchrun with two processes on the same global batch: weights and evaluation within 1e-5 after 50 steps, one writer; and resumed."
    run = json.loads(preset.read_text())
    run["training"] |= dict(max_steps=50, precision="float32", gradient_accumulation_steps=2, eval_interval=25)
    (tmp_path / "preset.json").write_text(json.dumps(run))
    for count, name in ((1, "one"), (2, "two")): processes(count, "--preset", tmp_path / "preset.json", "--out", tmp_path / name)
    one, two = (Transformer.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5
    lines = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]], "did both processes write?"
    for a, b in zip(*([line["valid_loss"] for line in each if "valid_loss" in line] for each in lines)): assert abs(a - b) < 1e-5
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    max((tmp_path / "again" / "checkpoints").iterdir()).unlink()
    (tmp_path / "again" / "checkpoints" / ".step_00000050.safetensors.x.tmp").touch()      # of a save cut short
    assert processes(2, "--resume", "--out", tmp_path / "again").count("resumed at step 40") == 1
    again = Transformer.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(two[name], again[name]) for name in two)


def test_accumulation_equals_one_large_batch(tmp_path):
    weights = []
    for k in (1, 4):
        trainer = small(tmp_path / str(k), gradient_accumulation_steps=k)
        trainer.model.double()
        for _ in range(5): trainer.train_step()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(*weights, rtol=0, atol=1e-9)


def test_float16_overflow_is_skipped_counted_and_recovered_from(tmp_path):
    trainer = small(tmp_path, precision="float16")
    trainer.train_step()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.scaler.update(2.0**30)                        # gradients overflow float16 for sure
    trainer.train_step()
    assert trainer.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters())), "a skipped update moved the weights"
    assert trainer.optimizer.state[trainer.model.lm_head.weight]["step"] == 1, "a skipped update was counted by the optimizer"
    trainer.flush([(2, 1e-3, torch.tensor(1.0), torch.tensor(1.0))])
    assert read_metrics(tmp_path)[-1]["skipped"] == 1
    trainer.save()
    resumed = small(tmp_path, precision="float16")
    assert resumed.resume() == 2 and resumed.skipped == 1 and resumed.scaler.get_scale() == trainer.scaler.get_scale()
    for _ in range(60): trainer.train_step()
    assert trainer.skipped < 40 and not all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


class Fetches(TorchDispatchMode):
    "Counts the numbers that were asked for: on a GPU each would wait for everything before it."
    count = 0
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_asks_the_device_for_no_number(precision, tmp_path, monkeypatch):
    monkeypatch.setattr("lm336.embeddings.Embedding.check", lambda *args: None)            # two checks that are made on a CPU alone
    monkeypatch.setattr("lm336.loss._check_targets", lambda *args: None)
    trainer = small(tmp_path, precision=precision, gradient_accumulation_steps=2)
    trainer.train_step()
    with Fetches() as fetches: waiting = [(step, 1e-3, *trainer.train_step()) for step in range(3)]
    assert fetches.count == 0
    trainer.flush(waiting)
    with fetches: waiting = trainer.train_step()[0].item()
    assert fetches.count > 0, "this test would not see a number being fetched"


@contextmanager
def largest_file(size):
    "No file may become larger: the kernel ends the write in the middle, as a full disk does."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_write_that_ends_in_the_middle_leaves_the_last_checkpoint(tmp_path, share):
    trainer = small(tmp_path)
    trainer.save()
    good, weights = trainer.last_checkpoint(), (tmp_path / "model.safetensors").read_bytes()
    before = good.read_bytes()
    trainer.train_step()
    with largest_file(int(len(before) * share)):
        with pytest.raises(OSError, match="step 1 could not be saved: .*File too large.*; the last good checkpoint is .*step_00000000"): trainer.save()
    assert trainer.last_checkpoint() == good and good.read_bytes() == before and (tmp_path / "model.safetensors").read_bytes() == weights
    assert not list(tmp_path.rglob(".*")), "half a file was left"
    trainer.save()
    assert small(tmp_path).resume() == 1


@contextmanager
def small_disk(folder, kilobytes):
    "A file system of its own in `folder`. It takes the right to mount one."
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode: pytest.skip("may not mount a file system")
    try: yield
    finally: subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_reported_and_the_run_goes_on_from_the_last_checkpoint(preset, unbroken, tmp_path):
    sizes = {path: path.stat().st_size for path in unbroken.rglob("*") if path.is_file()}
    checkpoint = max(size for path, size in sizes.items() if path.parent.name == "checkpoints")
    room = sum(sizes.values()) + checkpoint // 2                   # two checkpoints lie there, a third is begun
    with small_disk(tmp_path / "disk", room // 1024):
        run = tmp_path / "disk" / "run"
        status, out, err = finish(lm336("pretrain", "--preset", preset, "--out", run))
        message = err.strip().splitlines()[-1]
        assert status == 1 and "Traceback" not in err, err
        assert "No space left on device" in message and "the last good checkpoint is" in message, err
        step, _ = load_checkpoint(message.split("checkpoint is ")[1], *(lambda t: (t.model, t.optimizer))(small(tmp_path / "other")))
        assert step == 20
        subprocess.run(["mount", "-o", "remount,size=100m", tmp_path / "disk"], check=True)
        status, out, err = finish(lm336("pretrain", "--resume", "--out", run))
        assert status == 0 and f"resumed at step {step}" in out, err
        assert (run / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
        assert measured(run) == measured(unbroken)


def test_every_truncation_of_a_checkpoint_is_refused(tmp_path):
    trainer = small(tmp_path)
    trainer.train_step(); trainer.save()
    whole = trainer.last_checkpoint().read_bytes()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut"): load_checkpoint(tmp_path / "cut", trainer.model, trainer.optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


def test_tied_embeddings_train_and_resume(tmp_path):
    tied = MODEL | dict(tie_embeddings=True)
    trainer = small(tmp_path, model=tied, max_steps=20)
    trainer.fit()
    again = small(tmp_path, model=tied, max_steps=20)
    assert again.resume() == 20
    assert torch.equal(again.model.lm_head.weight, again.model.token_embeddings.weight)


def test_the_reference_preset_is_the_reference():
    data, model, training = load_preset("tinystories_t4")
    assert data == "tinystories"
    assert (model.vocab_size, model.context_length, model.d_model, model.num_layers, model.num_heads, model.d_ff, model.rope_theta) == (32_000, 256, 512, 4, 16, 1344, 10_000)
    assert (training.max_steps, training.batch_size, training.warmup_steps) == (5_000, 32, 500)
    assert (training.learning_rate, training.min_learning_rate, training.weight_decay, training.max_grad_norm) == (5e-4, 1e-4, 0.01, 1.0)


@pytest.mark.parametrize("capability, expected", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_precision_goes_by_compute_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: True)     # what a T4 says
    assert pick_precision(torch.device("cuda")) == expected


BAD = [  # what is wrong, the command, what the sentence must say
    ("missing file", ["train_tokenizer", "--input", "{tmp}/nowhere.txt", "--out", "{tmp}/t"], "nowhere.txt"),
    ("empty file", ["train_tokenizer", "--input", "{tmp}/empty.txt", "--out", "{tmp}/t"], "empty"),
    ("vocabulary too small", ["train_tokenizer", "--input", "{text}", "--vocab_size", "256", "--out", "{tmp}/t"], "257"),
    ("context longer than the data", ["pretrain", "--preset", "{tmp}/long.json", "--out", "{tmp}/long"], "context of 100000"),
    ("unknown preset", ["pretrain", "--preset", "demo", "--out", "{tmp}/x"], "demo_cpu"),
    ("unknown field", ["pretrain", "--preset", "{tmp}/typo.json", "--out", "{tmp}/x"], "batchsize"),
    ("not a run", ["generate", "{tmp}"], "is not a run folder"),
    ("not a run to evaluate", ["evaluate", "{tmp}"], "is not a run folder"),
    ("run already there", ["pretrain", "--preset", "{preset}", "--out", "{run}"], "--resume"),
    ("nothing to resume", ["pretrain", "--resume", "--out", "{tmp}/none"], "is not a run folder"),
    ("prompt too long", ["generate", "{run}", "--prompt", "1 and 2 make 3. " * 50], "context"),
    ("temperature", ["generate", "{run}", "--temperature", "-1"], "temperature"),
]


@pytest.mark.parametrize("what, command, says", BAD, ids=[b[0] for b in BAD])
def test_bad_input_gets_one_sentence(what, command, says, preset, unbroken, tmp_path):
    (tmp_path / "empty.txt").touch()
    good = json.loads(preset.read_text())
    (tmp_path / "long.json").write_text(json.dumps(good | {"model": MODEL | {"context_length": 100_000}}))
    (tmp_path / "typo.json").write_text(json.dumps(good | {"training": {"batchsize": 3}}))
    fill = dict(tmp=tmp_path, text=preset.parent / "sums.txt", preset=preset, run=unbroken)
    status, out, err = finish(lm336(*[part.format(**fill) for part in command]))
    message = err.strip().splitlines()[-1]
    assert status == 1 and "Traceback" not in err and says in message, err


def copy_of(run, tmp_path): return shutil.copytree(run, tmp_path / "copy")


def test_a_token_id_out_of_range(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    tokens = np.load(run / "data" / "valid.npy")
    tokens[17] = 5000
    np.save(run / "data" / "valid.npy", tokens)
    status, _, err = finish(lm336("evaluate", run))
    assert status == 1 and "Traceback" not in err and "token id 5000 at position 17" in err, err
    model = Transformer.from_pretrained(unbroken)
    with pytest.raises(InputError, match="token id 300"): model.generate([1, 300])


def test_truncated_weights_and_checkpoint(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    newest = max((run / "checkpoints").iterdir())
    for path, command in ((run / "model.safetensors", ["evaluate", run]), (newest, ["pretrain", "--resume", "--out", run])):
        path.write_bytes(path.read_bytes()[:-100])
        status, _, err = finish(lm336(*command))
        assert status == 1 and "Traceback" not in err and path.name in err, err


def test_a_config_that_disagrees(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    for name, part in (("run.json", "training"), ("config.json", None)):
        values = json.loads((run / name).read_text())
        (values[part] if part else values).update({"learning_rate": 1e-3} if part else {"d_model": 64})
        (run / name).write_text(json.dumps(values))
    status, _, err = finish(lm336("pretrain", "--resume", "--out", run))
    assert status == 1 and "training.learning_rate is 0.001 now and 0.005" in err, err
    status, _, err = finish(lm336("evaluate", run))
    assert status == 1 and "Traceback" not in err and "shape" in err, err


def test_nan_stops_and_keeps_the_last_checkpoint(preset, tmp_path):
    wild = json.loads(preset.read_text())
    wild["training"] |= dict(learning_rate=1e30, min_learning_rate=1e30, warmup_steps=100)
    wild["training"]["save_interval"] = 1
    (tmp_path / "wild.json").write_text(json.dumps(wild))
    status, _, err = finish(lm336("pretrain", "--preset", tmp_path / "wild.json", "--out", tmp_path / "run"))
    message = err.strip().splitlines()[-1]
    assert status == 1 and "no update was made" in message and "learning rate" in message, err
    kept = message.split("checkpoint is ")[1].split(";")[0]
    trainer = small(tmp_path / "other")
    assert load_checkpoint(kept, trainer.model, trainer.optimizer)[0] > 0


@pytest.mark.parametrize("shape", [dict(vocab_size=4096, context_length=128, d_model=256, num_layers=4, num_heads=8, batch_size=32),
                                   dict(vocab_size=32_000, context_length=256, d_model=512, num_layers=4, num_heads=16, batch_size=4),
                                   dict(vocab_size=1000, context_length=512, d_model=384, num_layers=6, num_heads=6, batch_size=16)],
                         ids=["many logits", "reference", "long"])
def test_predicted_peak_memory(shape, tmp_path):
    "The whole process on a CPU, within 15 %, in a process of its own."
    batch_size = shape.pop("batch_size")
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from lm336 import Trainer, TrainingConfig, Transformer, TransformerConfig
tokens = np.arange(4000, dtype=np.uint16) % 1000
config = TrainingConfig(max_steps=3, batch_size={batch_size}, warmup_steps=1, eval_windows=1)
Trainer(Transformer(TransformerConfig(**{shape})), tokens, tokens, config, {str(tmp_path)!r}, device="cpu").fit()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, stdin=subprocess.DEVNULL)
    record = json.loads((tmp_path / "accounting.json").read_text())
    assert 0.85 < record["predicted_peak_bytes"] / record["peak_bytes"] < 1.15, record


def test_a_spike_keeps_the_checkpoint_before_it(tmp_path):
    trainer = small(tmp_path)
    trainer.save()
    for step in range(50): trainer.watch(step, 1e-3, 2.0 + 0.1 * (step % 2), 1.0)
    with pytest.warns(UserWarning, match=r"jumped from 2\.050 to 2\.700 at step 50 with a learning rate of 1\.00e-03"):
        trainer.watch(50, 1e-3, 2.7, 1.0)
    assert len(list((tmp_path / "checkpoints").glob("before_spike_*"))) == 1
    with pytest.raises(FloatingPointError, match="the loss became inf at step 51"): trainer.watch(51, 1e-3, float("inf"), 1.0)


def test_operations_are_counted_as_predicted(tmp_path):
    "The fused attention counts its second pass over the scores; without it the count is the prediction."
    for fused, extra in ((False, 0), (True, 1)):
        model = Transformer(TransformerConfig(**MODEL), fused=fused)
        ids = torch.randint(300, (4, 32))
        expected = flops_per_token(model.config) + extra * MODEL["num_layers"] * 2 * 32 * MODEL["d_model"]
        assert counted_flops(Objective(model, "float32"), ids, ids) == expected * ids.numel()
        assert all(p.grad is None for p in model.parameters())


needs_a_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")


@needs_a_compiler
def test_compiled_training_is_the_same_training(tmp_path):
    "The same losses within rounding, the same names in the checkpoint; and a resumed run is bit-identical to an unbroken one."
    plain, compiled = (small(tmp_path / how, max_steps=6, compile=how) for how in ("off", "on"))
    losses = [[trainer.train_step()[0].item() for _ in range(6)] for trainer in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    broken, resumed = (small(tmp_path / "broken", max_steps=6, compile="on") for _ in range(2))
    for _ in range(3): broken.train_step()
    broken.save()
    assert resumed.resume() == 3
    for _ in range(3): resumed.train_step()
    for name, weight in compiled.model.state_dict().items(): assert weight.equal(resumed.model.state_dict()[name]), name


@needs_a_compiler
def test_a_long_run_is_compiled_where_a_compiler_works(tmp_path, monkeypatch):
    assert not small(tmp_path / "short").compiled
    monkeypatch.setattr(training, "LONG_RUN", 0)
    assert small(tmp_path / "long").compiled
    torch._dynamo.reset()           # forget what has been compiled
    with torch._inductor.config.patch({"cpp.cxx": ("/no/compiler",), "force_disable_caches": True}):
        trainer = small(tmp_path / "no compiler")
        assert not trainer.compiled and trainer.train_step()[0].isfinite()


def test_the_floor_of_a_run_is_in_nats_per_token(tmp_path, monkeypatch):
    "What the trainer draws under the loss: the stories' own probabilities, one by one, over the tokens that the model is tested on."
    class Enough(Exception): pass
    def trainer(model, train, valid, config, folder, floor):
        raise Enough(floor * len(valid))
    monkeypatch.setattr(cli, "Trainer", trainer)
    preset = dict(data="stories:0.1", model=dict(vocab_size=300, context_length=16, d_model=16, num_layers=1, num_heads=2), training=dict(max_steps=1, warmup_steps=0))
    (tmp_path / "tiny.json").write_text(json.dumps(preset))
    with pytest.raises(Enough) as nats: cli.run_preset(str(tmp_path / "tiny.json"), tmp_path / "run")
    grammar, stories = StoryGrammar(), list(iter_documents(tmp_path / "run" / "data" / "valid.txt"))
    assert nats.value.args[0] == pytest.approx(-math.log(2) * sum(map(grammar.log2_prob, stories)))
