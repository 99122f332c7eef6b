"""A model made of the exercises' solutions alone, where the book's own cannot be imported."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lm336 import Transformer, TransformerConfig
from lm336.errors import InputError
from lm336.exercises import MODEL_PARTS, MyConfig, my_model
from lm336.questions import CORE, define, find_exercises

NBS = Path(__file__).parents[1] / "nbs"
ALONE = '''
import json, re, sys
from importlib.abc import MetaPathFinder

BANNED = {f"lm336.{name}" for name in """embeddings rope attention block transformer loss adamw
schedule training generation evaluation bpe tokenizer dataset""".split()}


class Ban(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in BANNED:
            raise ImportError(f"a part needs {name}")


sys.meta_path.insert(0, Ban())

import numpy as np
import torch
from safetensors.torch import load_file

from lm336.exercises import MODEL_PARTS, MyConfig, my_model
from lm336.grammar import StoryGrammar
from lm336.questions import define, find_exercises

notebooks, file = sys.argv[1:]
solved = {e.name: e for e in find_exercises(notebooks) if e.name in MODEL_PARTS}
parts = {name: define(e, e.solution, name) for name, e in solved.items()}
model = my_model(parts, MyConfig(num_layers=2))
ours = load_file(file)
ids, logits = ours.pop("ids"), ours.pop("logits")
with torch.no_grad():
    error = (model.logits(ids, ours) - logits).abs().max().item()

grammar = StoryGrammar("""
[child name he]
Ada / she, Ben / he, Cleo / she, Dan / he

# The lost toy | hero child
[Once|One day] {hero} had a [ball|boat|drum|kite], but it was gone. "Where is my toy?" {he}
[asked|cried]. It was [in the barn|under a tree|at the pond].
""")
stories = [grammar.sample(np.random.default_rng(seed)) for seed in range(400)]
losses = model.learn(stories[20:], steps=300)
words = set(re.findall(r"\\w+", " ".join(stories)))
story = model.tell("One day")
told = re.findall(r"\\w+", story)
print(json.dumps(dict(
    error=error,
    start=sum(losses[:20]) / 20,
    end=sum(losses[-20:]) / 20,
    steps=len(losses),
    score=model.bits_per_byte(stories[:20]),
    floor=grammar.bits_per_byte,
    story=story,
    known=sum(word in words for word in told) / len(told),
    names=sorted(model.weights),
)))
'''


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "What a process said that made, trained and asked a model of the solutions."
    shape = {name: getattr(MyConfig(), name) for name in MyConfig.__dataclass_fields__}
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**shape))
    ids = torch.randint(shape["vocab_size"], (3, 40))
    with torch.no_grad():
        logits = model(ids)
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    save_file({**model.state_dict(), "ids": ids, "logits": logits}, path)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(NBS), str(path)],
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=300,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"ours": sorted(model.state_dict())}


def test_every_part_of_a_model_is_an_exercise():
    asked = {one.name for one in find_exercises(NBS)}
    assert set(CORE) <= asked, f"not asked for: {', '.join(sorted(set(CORE) - asked))}"


def test_on_equal_weights_it_gives_the_books_logits(alone):
    assert alone["names"] == alone["ours"], "the weights have the book's names"
    assert alone["error"] < 1e-4


def test_it_learns_and_stays_above_the_floor(alone):
    assert alone["steps"] == 300
    assert alone["end"] < alone["start"] / 3
    assert 0.9 * alone["floor"] < alone["score"] < 3 * alone["floor"]


def test_its_stories_are_made_of_the_stories_words(alone):
    assert alone["story"].startswith("One day")
    assert alone["known"] > 0.8, alone["story"]


def test_a_missing_part_is_named():
    with pytest.raises(InputError, match=r"not solved yet, or not kept: .*softmax.*progress"):
        my_model({})


def test_a_model_of_wrong_parts_can_be_made():
    "So that a reader sees what the mistake does."
    solved = {one.name: one for one in find_exercises(NBS) if one.name in MODEL_PARTS}
    parts = {name: define(one, one.solution, name) for name, one in solved.items()}
    parts["rms_norm"] = lambda x, weight, eps: x
    assert my_model(parts).logits(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 400)
