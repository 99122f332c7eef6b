"""A Transformer language model built from nothing but tensor arithmetic.

What most programs need is here: `from lm336 import Transformer, Tokenizer`. `__init__.pyi`
lists these names, which are also all that `from lm336 import *` gives. Everything else is found
in its module: `from lm336.widgets import Sampler`. A name is looked up when it is first asked
for, so that the tokenizer alone never imports torch.
"""

import lazy_loader

__version__ = "0.2.0"

_top_level, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    "A top-level name or a module; for a name of a module, `AttributeError` says which."
    if name in __all__:
        return _top_level(name)
    if name.startswith("_"):
        raise AttributeError(f"module 'lm336' has no attribute {name!r}")
    import re
    from importlib import import_module
    from pathlib import Path

    modules = {path.stem: path for path in Path(__file__).parent.glob("[a-z]*.py")}
    if name in modules:
        return import_module(f"lm336.{name}")
    for module, path in modules.items():
        public = re.search(r"^__all__ = \[(.*?)\]", path.read_text("utf-8"), re.M | re.S)
        if public and re.search(rf"['\"]{re.escape(name)}['\"]", public[1]):
            place = f"lm336.{module}.{name}"
            raise AttributeError(f"lm336.{name} is not at the top level: {place}")
    raise AttributeError(f"module 'lm336' has no attribute {name!r}")
