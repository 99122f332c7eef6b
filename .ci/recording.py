"""The story that the sampler tells before there is a model, in data/story.json: the answers of
data/demo to the panel's own questions, token by token, rounded.

    python .ci/recording.py
"""

import json
from pathlib import Path

from lm336 import Tokenizer, Transformer
from lm336.files import atomic_path
from lm336.widgets import sampler_answers

ROOT = Path(__file__).parents[1]
SETTINGS = dict(prompt="One day", temperature=0.8, seed=19)
LEAST = 0.005  # probability of a bar that is kept, besides that of the token itself


def record() -> dict:
    "What data/story.json holds: the settings, and the messages in the order of the story."
    demo = ROOT / "data/demo"
    model = Transformer.from_pretrained(demo).float()
    tokenizer = Tokenizer.from_pretrained(demo)

    def ask(kind, **more):
        return list(sampler_answers(model, tokenizer, dict(SETTINGS, type=kind, **more)))

    (given,) = ask("read")
    *told, _ = ask("generate", max_new_tokens=400)
    (after,) = ask("distribution", after=[token["id"] for token in told])
    for each in [*given["tokens"], *told, after]:
        own, bars = each.get("id"), each["bars"]
        each["bars"] = [bar for bar in bars if bar["probability"] >= LEAST or bar["id"] == own]
    return dict(SETTINGS, messages=[given, *told, after])


if __name__ == "__main__":
    text = json.dumps(record(), ensure_ascii=False)
    rounded = json.loads(text, parse_float=lambda digits: round(float(digits), 3))
    path = ROOT / "data/story.json"
    with atomic_path(path) as waiting:
        packed = json.dumps(rounded, ensure_ascii=False, separators=(",", ":"))
        waiting.write_text(packed + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
