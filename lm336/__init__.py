"""A Transformer language model built from nothing but tensor arithmetic.

Every public name of every module is here: `from lm336 import Transformer, Tokenizer`. A name is
looked up, in the index that nbdev keeps, when it is first asked for, so that the tokenizer alone
never imports torch.
"""
__version__ = "0.1.0"

from importlib import import_module


def _homes():
    "Public class or function name -> the modules that define it or add methods to it."
    from ._modidx import d
    homes = {name: {"lm336.errors": None} for name in ("END_OF_TEXT", "InputError")}   # no chapter exports these
    for module, symbols in d["syms"].items():
        for symbol in symbols:
            name = symbol.removeprefix(module + ".").split(".")[0]
            if not name.startswith("_"): homes.setdefault(name, {})[module] = None
    return homes


def __getattr__(name):
    if name.startswith("_"): raise AttributeError(name)
    found = [getattr(import_module(module), name) for module in _homes().get(name, ())]
    if not found: raise AttributeError(f"module 'lm336' has no attribute {name!r}")
    globals()[name] = found[0]
    return found[0]


def __dir__(): return [*globals(), *_homes()]
