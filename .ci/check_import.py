"""A clean process: `import lm336` and its model in under 1.5 s without a GPU.

The tokenizer comes without torch, and the package alone without any of its modules.
"""

import subprocess
import sys
import time

SECONDS = 1.5  # that we aim at, on an idle machine


def run(code: str) -> float:
    "Run a line of Python in a process of its own; the seconds that it took."
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def report(code: str) -> float:
    "Say how long a line takes: the least of three runs, after one that fills the file cache."
    seconds = min([run(code) for _ in range(4)][1:])
    print(f"{code}: {seconds:.2f} s")
    return seconds


report("pass")
report("import lm336")
if report("from lm336 import Transformer") > SECONDS:
    print(f"slower than the {SECONDS} s we aim at on an idle machine")
loaded = "[name for name in sys.modules if name.startswith('lm336.')]"
run(f"import sys, lm336; assert not {loaded}, {loaded}")
print("import lm336: no module of its own")
run("""
import sys
from lm336 import Tokenizer
assert "torch" not in sys.modules, "the tokenizer imports torch"
""")
print("from lm336 import Tokenizer: no torch")
