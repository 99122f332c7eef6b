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
CACHE = Path(os.environ.get("LM336_CACHE", Path.home() / ".cache/lm336"))
PROGRAM = CACHE / f"axe-core-{VERSION}.min.js"


def fetch(npm):
    "The program, as npm packs it; the test is skipped where npm cannot reach its registry."
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"axe-core@{VERSION}", "--silent"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=120
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not fetch axe-core within two minutes")
        if done.returncode:
            pytest.skip(f"npm could not fetch axe-core: {done.stderr.strip()[:200]}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member, "npm's package of axe-core has no axe.min.js"
            return member.read()


@functools.cache
def program():
    "Its JavaScript, which npm fetches once."
    if not PROGRAM.exists():
        npm = shutil.which("npm")
        if not npm:
            pytest.skip("npm is not installed: it fetches axe-core")
        text = fetch(npm)
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        PROGRAM.write_bytes(text)
    return PROGRAM.read_text(encoding="utf-8")


def serious(page):
    "The rules that a page breaks, and where."
    page.evaluate(program())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    broken = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:150]} "
        f"{node.get('failureSummary', '')[:300]}"
        for rule in broken
        for node in rule["nodes"]
    ]
