"""The run behind the slider in the widgets' chapter, in data/learn.json.

It is the preset demo_cpu, stopped at ten of its steps.

    python .ci/learn.py      a quarter of an hour on one CPU core
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lm336.accounting import environment
from lm336.configuration import load_preset
from lm336.dataset import load_tokens, prepare
from lm336.evaluation import entropy_floor
from lm336.files import atomic_path
from lm336.runs import Run
from lm336.transformer import Transformer
from lm336.widgets import watch_learning

STEPS, PROMPT = [0, 10, 25, 50, 100, 200, 400, 800, 1500, 2200], "Once upon a time"
NOTE = (
    "Another run than that of the model that tells stories on these pages: "
    "the preset demo_cpu, 2,200 updates, where that model had 22,000."
)

data, shape, config = load_preset("demo_cpu")
start = time.perf_counter()
with TemporaryDirectory() as folder:
    folder = Path(folder)
    tokenizer = prepare(data, shape.vocab_size, folder)
    train, valid = (load_tokens(folder/"data"/f"{name}.npy") for name in ("train", "valid"))
    torch.manual_seed(config.seed)
    trainer = Run(Transformer(shape), train, valid, config, folder)
    floor = entropy_floor(data, folder/"data/valid.txt")
    records = watch_learning(trainer, tokenizer, STEPS, PROMPT, floor)
    records["note"] = NOTE
    records["run"] = dict(
        command="python .ci/learn.py",
        date=time.strftime("%Y-%m-%d"),
        preset="demo_cpu",
        data=data,
        seconds=round(time.perf_counter() - start),
        precision=trainer.precision,
        **environment(),
    )
records = json.loads(json.dumps(records), parse_float=lambda digits: round(float(digits), 4))
with atomic_path(Path(__file__).parents[1]/"data/learn.json") as path:
    path.write_text(json.dumps(dict(records=records), indent=1) + "\n", encoding="utf-8")
