"Fixtures that several test files use."
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".hypothesis"))   # not wherever pytest is called from


@pytest.fixture(scope="session")
def real_text():
    "A megabyte of real English: the file named by LM336_TEXT, or shared/data/tinyshakespeare.txt beside the checkout."
    path = Path(os.environ.get("LM336_TEXT", ROOT.parent / "shared/data/tinyshakespeare.txt"))
    if not path.is_file(): pytest.skip("no real text here: set LM336_TEXT to the path of one")
    return path
