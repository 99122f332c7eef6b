"""A Transformer language model built from nothing but tensor arithmetic.

Every public name of every module is here: `from lm336 import Transformer, Tokenizer`. Only the bug
zoo's stay in `lm336.bug_zoo`, where nobody takes its helpers for ours. A name is looked up when it
is first asked for, so that the tokenizer alone never imports torch. A module's name is the module.
"""

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"


@cache
def _modules() -> dict[str, list[str]]:
    "Each module's public names, as its `__all__` says, read without importing it."
    modules = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        found = re.search(r"^__all__ = (\[.*?\])", path.read_text(encoding="utf-8"), re.M | re.S)
        modules[path.stem] = ast.literal_eval(found[1]) if found else []
    return modules


@cache
def _homes() -> dict[str, str]:
    "Each name that is found here, and the module that defines it."
    modules = _modules()
    homes = {}
    for module, names in modules.items():
        if module != "bug_zoo":
            homes |= dict.fromkeys(names, module)
    return {name: module for name, module in homes.items() if name not in modules}


def _with_methods_for(name: str) -> set[str]:
    "The modules that add methods to a class by `patch`, by the index that nbdev keeps."
    from ._modidx import d

    return {
        module
        for module, symbols in d["syms"].items()
        if any(symbol.startswith(f"{module}.{name}.") for symbol in symbols)
    }


def __getattr__(name: str):
    if name == "__all__":
        return sorted(_homes())
    if name in _modules():
        return import_module(f"lm336.{name}")
    if name not in _homes():
        raise AttributeError(f"module 'lm336' has no attribute {name!r}")
    for module in _with_methods_for(name):
        import_module(module)
    value = getattr(import_module(f"lm336.{_homes()[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes(), *_modules()})
