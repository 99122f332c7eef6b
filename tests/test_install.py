"What `import lm336` promises, each time in a process of its own: names that are found, and nothing loaded that was not asked for."
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = sorted(path.stem for path in (Path(__file__).parents[1] / "lm336").glob("[a-z]*.py"))


def python(code: str, folder: Path) -> str:
    "What a fresh Python prints that runs this in an empty folder."
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_of_every_module_is_found(tmp_path):
    python(f"""
import importlib, lm336
star = {{}}
exec("from lm336 import *", star)
for module in {MODULES!r}:
    if module == "bug_zoo": continue
    home = importlib.import_module("lm336." + module)
    for name in home.__all__:
        if name in {MODULES!r}: continue
        assert getattr(lm336, name) is getattr(home, name), f"lm336.{{name}} is not {{module}}.{{name}}"
        assert name in dir(lm336), f"{{name}} is not completed"
        assert star[name] is getattr(home, name), f"{{name}} does not come with the star"
""", tmp_path)


def test_torch_is_not_loaded_before_it_is_needed(tmp_path):
    code = "import sys, lm336; from lm336 import Tokenizer, END_OF_TEXT; dir(lm336); hasattr(lm336, 'nothing'); print('torch' in sys.modules)"
    assert python(code, tmp_path) == "False"


def test_a_class_has_its_methods_however_it_is_asked_for(tmp_path):
    python("from lm336 import Transformer; Transformer.generate, Transformer.from_pretrained, Transformer.save_pretrained", tmp_path)


@pytest.mark.parametrize("first", ["from lm336 import experiments", "import lm336; experiments = lm336.experiments"])
def test_a_modules_name_is_the_module_whoever_asked_first(first, tmp_path):
    code = "from lm336 import run_experiment, experiments as after; print(experiments is after, type(after).__name__)"
    assert python(f"{first}\n{code}", tmp_path) == "True module"


def test_the_bug_zoos_helpers_are_not_taken_for_ours(tmp_path):
    code = "import lm336; print([name for name in ('train', 'trainer', 'caught') if hasattr(lm336, name) or name in dir(lm336)])"
    assert python(code, tmp_path) == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error(tmp_path):
    code = "import lm336\ntry: lm336.nothing_of_the_kind\nexcept AttributeError as error: print(error)"
    assert "nothing_of_the_kind" in python(code, tmp_path)
