"axe-core, Deque's accessibility checker: what it calls serious or critical on a page."
import functools
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

VERSION = "4.14.1"
CACHE = Path(os.environ.get("LM336_CACHE", Path.home()/".cache/lm336"))/f"axe-core-{VERSION}.min.js"


@functools.cache
def program():
    "Its JavaScript, which npm fetches once."
    if not CACHE.exists():
        npm = shutil.which("npm")
        if not npm:
            pytest.skip("npm is not installed: it fetches axe-core")
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run([npm, "pack", f"axe-core@{VERSION}", "--silent"], cwd=folder, capture_output=True, text=True, timeout=120)
            except subprocess.TimeoutExpired:
                pytest.skip("npm could not fetch axe-core within two minutes")
            if done.returncode:
                pytest.skip(f"npm could not fetch axe-core: {done.stderr.strip()[:200]}")
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                text = archive.extractfile("package/axe.min.js").read()
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        CACHE.write_bytes(text)
    return CACHE.read_text(encoding="utf-8")


def serious(page):
    "The rules that a page breaks, and where."
    page.evaluate(program())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [f"{one['id']} ({one['impact']}): {node['html'][:150]} {node.get('failureSummary', '')[:300]}"
            for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]]
