"What holds for every test: it begins as every other does, and leaves the process as it was."

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
# of a run that takes a second
MODEL: dict[str, Any] = dict(
    vocab_size=300, context_length=16, d_model=16, num_layers=1, num_heads=2
)
TRAINING: dict[str, Any] = dict(
    max_steps=8,
    warmup_steps=1,
    batch_size=4,
    learning_rate=1e-2,
    save_interval=4,
    eval_interval=4,
    eval_windows=4,
)


def sums(number):
    "A text for it: each sum of two numbers below `number`."
    pairs = [(a, b) for a in range(number) for b in range(number)]
    return "".join(f"{a} and {b} make {a + b}.<|endoftext|>" for a, b in pairs)


# in the background of a script (`... &`) Ctrl-C is ignored, by this process and its children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# in every process that a test starts, so that no two of them go by two measurements
os.environ.setdefault(
    "LM336_PRODUCTS", "oneDNN" if torch.backends.mkldnn.is_available() else "PyTorch"
)

# not wherever pytest is called from
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".hypothesis"))


@pytest.fixture(scope="session")
def real_text():
    """A megabyte of real English: the file named by LM336_TEXT, or
    shared/data/tinyshakespeare.txt beside the checkout."""
    path = Path(os.environ.get("LM336_TEXT", ROOT.parent / "shared/data/tinyshakespeare.txt"))
    if not path.is_file():
        pytest.skip("no real text here: set LM336_TEXT to the path of one")
    return path


@pytest.fixture(scope="session", autouse=True)
def short_samples():
    "A run's samples have 40 tokens, more than a tiny context holds: 400 take half a second."
    from lm336.report import write_samples

    with patch.object(write_samples, "__defaults__", (40, 0.8)):  # and a temperature
        yield


WRITTEN_BY_OTHERS = {   # by pytest, torch.compile and CUDA
    "PYTEST_CURRENT_TEST",
    "TORCHINDUCTOR_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
    "TRITON_CACHE_DIR",
    "CUDA_MODULE_LOADING",
}


def environment():
    return {name: value for name, value in os.environ.items() if name not in WRITTEN_BY_OTHERS}


PROCESS = {   # what a test could leave changed for those after it: how it is read
    "the current folder": os.getcwd,
    "the environment": environment,
    "torch's default format": torch.get_default_dtype,
    "whether torch takes gradients": torch.is_grad_enabled,
    "the number of torch's threads": torch.get_num_threads,
    "matplotlib's settings": lambda: dict(matplotlib.rcParams),
}


@pytest.fixture(autouse=True)
def nothing_leaks():
    """A test has the same random numbers, and the same library for products, wherever it
    stands, and leaves the process as it was."""
    if "lm336.fast_model" in sys.modules:
        sys.modules["lm336.fast_model"]._decided.clear()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = {what: read() for what, read in PROCESS.items()}
    yield
    changed = [what for what, read in PROCESS.items() if read() != before[what]]
    assert not changed, f"the test has left changed: {', '.join(changed)}"
