"A clean process: `import lm336` and its model in under 1.5 s without a GPU, the tokenizer without torch."
import subprocess
import sys
import time


def run(code):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


run("import lm336.transformer")                      # once to fill the file cache
seconds = min(run("from lm336 import Transformer") for _ in range(3))
print(f"from lm336 import Transformer: {seconds:.2f} s")
if seconds > 1.5:
    print("slower than the 1.5 s we aim at on an idle machine")
run("import sys; from lm336 import Tokenizer; assert 'torch' not in sys.modules, 'the tokenizer imports torch'")
print("from lm336 import Tokenizer: no torch")
