"""What two panels show before there is a model, rounded: python .ci/recording.py

data/story.json is the story that the sampler tells, token by token; data/reading.json is what
the model and the perfect reader make of the text of oracle-view.js. Both are the answers of
data/demo to the panels' own questions.
"""

import json
import re
from pathlib import Path

from lm336 import END_OF_TEXT, Tokenizer, Transformer
from lm336.files import atomic_path
from lm336.oracle import Oracle
from lm336.widgets import sampler_answers, truth_answer

ROOT = Path(__file__).parents[1]
SETTINGS = dict(prompt="One day", temperature=0.8, seed=19)
LEAST = 0.005  # probability of a bar that is kept, besides that of the token itself


def shipped() -> tuple[Transformer, Tokenizer]:
    demo = ROOT / "data/demo"
    return Transformer.from_pretrained(demo).float(), Tokenizer.from_pretrained(demo)


def record() -> dict:
    "What data/story.json holds: the settings, and the messages in the order of the story."
    model, tokenizer = shipped()

    def ask(kind, **more):
        return list(sampler_answers(model, tokenizer, dict(SETTINGS, type=kind, **more)))

    (given,) = ask("read")
    *told, _ = ask("generate", max_new_tokens=400)
    (after,) = ask("distribution", after=[token["id"] for token in told])
    for each in [*given["tokens"], *told, after]:
        own, bars = each.get("id"), each["bars"]
        each["bars"] = [bar for bar in bars if bar["probability"] >= LEAST or bar["id"] == own]
    return dict(SETTINGS, messages=[given, *told, after])


def shown_text() -> str:
    "The text that oracle-view.js begins with."
    panel = (ROOT / "lm336/web/oracle-view.js").read_text(encoding="utf-8")
    found = re.search(r"(?s)const TEXT = `(.*?)`;", panel)
    assert found, "oracle-view.js has no TEXT"
    return found[1].replace("\\\n", "")


def record_reading(
    model: Transformer, tokenizer: Tokenizer, oracle: Oracle, text: str, place: str = " six"
) -> dict:
    """What data/reading.json holds: the text, its tokens, what both readers made of them, and
    what both expected in one place, that of the first token that says `place`."""

    def ask(**message):
        return next(sampler_answers(model, tokenizer, dict(count=12, **message)))

    read = ask(type="read", prompt=END_OF_TEXT + text)["tokens"]
    tokens = [{name: token[name] for name in ("id", "text", "logprob")} for token in read]
    ids = [token["id"] for token in tokens]
    chosen = [token["text"] for token in tokens[1:]].index(place)
    before = ids[1 : chosen + 1]

    def truth(kind, ids):
        return truth_answer(oracle, tokenizer, dict(type=kind, ids=ids, count=12))

    return dict(
        text=text,
        tokens=tokens,
        truth=truth("truth", ids[1:]),
        chosen=chosen,
        bars=ask(type="distribution", ids=ids[:1], after=before)["bars"],
        expected=truth("expected", before)["bars"],
    )


if __name__ == "__main__":
    reading = record_reading(*shipped(), Oracle(), shown_text())
    for name, made in (("story", record()), ("reading", reading)):
        text = json.dumps(made, ensure_ascii=False)
        rounded = json.loads(text, parse_float=lambda digits: round(float(digits), 3))
        path = ROOT / f"data/{name}.json"
        with atomic_path(path) as waiting:
            packed = json.dumps(rounded, ensure_ascii=False, separators=(",", ":"))
            waiting.write_text(packed + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
