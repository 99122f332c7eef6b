"""What holds for every test: it begins as every other does, and leaves the process and the checkout as it found them.

    python -m pytest tests                              in the order in which they are written
    python -m pytest --random-order-seed=1 tests        in another one (pytest-random-order)
"""
import os
import random
import subprocess
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_text():
    "A megabyte of real English: the file named by LM336_TEXT, or shared/data/tinyshakespeare.txt beside the checkout."
    path = Path(os.environ.get("LM336_TEXT", ROOT.parent / "shared/data/tinyshakespeare.txt"))
    if not path.is_file():
        pytest.skip("no real text here: set LM336_TEXT to the path of one")
    return path


WRITTEN_BY_OTHERS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")   # pytest, torch.compile


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
    "The same random numbers for a test wherever it stands, and a process that is afterwards as it was."
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = {what: read() for what, read in PROCESS.items()}
    yield
    changed = [what for what, read in PROCESS.items() if read() != before[what]]
    assert not changed, f"the test has left changed: {', '.join(changed)}"


def checkout():
    "What git would say of the checkout: changed files, and new ones that it does not ignore."
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    try:
        return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())
    except (OSError, subprocess.CalledProcessError):
        return set()   # no git, or not a checkout


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind():
    "The tests write into folders of their own. Where CI is set this is an error; else you may have been working meanwhile."
    before = checkout()
    yield
    left = sorted(checkout() - before)
    if left and os.environ.get("CI"):
        pytest.fail(f"the tests have changed the checkout: {left}")
    if left:
        warnings.warn(f"while the tests ran, the checkout has changed: {left}", stacklevel=1)
