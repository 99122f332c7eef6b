"""The demo model in data/demo, from a finished run, with its report and log.

Its weights are in float16, and measured again as they are.

    lm336_pretrain --preset data/demo/run.json --out runs/story     two hours on two CPU cores
    python .ci/demo.py runs/story
"""

import shutil
import sys
from pathlib import Path

from lm336 import Transformer
from lm336.files import read_json, write_json
from lm336.report import evaluate_run

run, demo = Path(sys.argv[1]), Path(__file__).parent.parent/"data/demo"
demo.mkdir(parents=True, exist_ok=True)
for name in ("run.json", "tokenizer.json", "metrics.jsonl", "loss.png", "accounting.json"):
    if (run/name).exists():
        shutil.copy(run/name, demo)
Transformer.from_pretrained(run).half().save_pretrained(demo)
about = read_json(demo/"run.json")
about.get("digests", {}).pop("model.safetensors", None)     # of the weights in float32
write_json(demo/"run.json", about)
shutil.copytree(run/"data", demo/"data", ignore=shutil.ignore_patterns("*train*"))
print(evaluate_run(demo)[0])
shutil.rmtree(demo/"data")      # the same bytes come from the same seed
