"""What `import lm336` promises.

Each time in a process of its own: names that are found, and nothing loaded that was not asked
for.
"""

import ast
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .conftest import ROOT

PACKAGE = ROOT / "lm336"


def python(code: str, folder: Path) -> str:
    "What a fresh Python prints that runs this in an empty folder."
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def stub() -> dict[str, str]:
    "Each name of the stub, and its module."
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, f"{alias.name} is private to type checkers"
                found[alias.name] = node.module
    return found


def test_the_top_level_names_are_those_of_the_stub(tmp_path):
    code = f"""
from importlib import import_module
import lm336

names = {stub()!r}
star = {{}}
exec("from lm336 import *", star)
del star["__builtins__"]
assert sorted(star) == sorted(lm336.__all__) == sorted(dir(lm336)) == sorted(names)
for name, module in names.items():
    home = import_module("lm336." + module)
    assert getattr(lm336, name) is star[name] is getattr(home, name), name
    assert name in home.__all__, f"{{name}} is not a public name of {{module}}"
"""
    python(code, tmp_path)


@pytest.mark.parametrize("name, version", [("torch", "2.6.0"), ("ipywidgets", "7.7.1")])
def test_what_colab_has_is_kept(name, version):
    "pip replaces nothing that will do: its PyTorch, and the old widgets that its pages know."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    wanted = map(Requirement, settings["DEFAULT"]["requirements"].split())
    (found,) = [one for one in wanted if one.name == name]
    assert found.specifier.contains(version)
    theirs = map(Requirement, requires("anywidget") or [])
    assert all(one.specifier.contains(version) for one in theirs if one.name == name)


def test_a_module_comes_when_it_is_asked_for(tmp_path):
    code = f"""
import lm336
for name in {sorted(path.stem for path in PACKAGE.glob("[a-z]*.py"))!r}:
    module = getattr(lm336, name)
    assert module.__name__ == "lm336." + name, f"lm336.{{name}} is {{module}}"
"""
    python(code, tmp_path)


def test_torch_is_not_loaded_before_it_is_needed(tmp_path):
    code = """
import sys, lm336
from lm336 import END_OF_TEXT, InputError, Tokenizer
dir(lm336), hasattr(lm336, "nothing"), hasattr(lm336, "Sampler")
print("torch" in sys.modules)
"""
    assert python(code, tmp_path) == "False"


def test_nothing_is_loaded_before_it_is_asked_for(tmp_path):
    code = """
import sys, lm336
print([name for name in sys.modules if name.startswith("lm336.")])
"""
    assert python(code, tmp_path) == "[]"


def test_a_class_has_its_methods_however_it_is_asked_for(tmp_path):
    code = """
from lm336 import Transformer
Transformer.generate, Transformer.from_pretrained, Transformer.save_pretrained
"""
    python(code, tmp_path)


@pytest.mark.parametrize(
    "name, says",
    [
        ("nothing_of_the_kind", "has no attribute 'nothing_of_the_kind'"),
        ("_private", "has no attribute '_private'"),
        ("Sampler", "lm336.widgets.Sampler"),
        ("cosine", "has no attribute 'cosine'"),
    ],
)
def test_a_name_that_is_not_there_is_an_attribute_error(tmp_path, name, says):
    code = f"""
import lm336
try:
    lm336.{name}
except AttributeError as error:
    print(error)
"""
    assert says in python(code, tmp_path)


def test_an_error_inside_a_module_is_seen_as_it_is(tmp_path):
    "And not taken for a name that is missing."
    code = """
import sys, lm336
sys.modules["regex"] = None
try:
    lm336.Tokenizer
except ImportError as error:
    print("regex" in str(error))
"""
    assert python(code, tmp_path) == "True"
