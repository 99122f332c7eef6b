"""Compile lm336/web/kernels.ts, AssemblyScript, into lm336/web/kernels-wasm.js.

    python .ci/kernels.py            writes the module
    python .ci/kernels.py --check    says whether it is what the source gives

The module holds the WebAssembly in base64, so that a page, a worker and JupyterLab load it as
they load any other. Needs npm, which brings the compiler at the version below.
"""

import argparse
import base64
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

WEB = Path(__file__).resolve().parent.parent / "lm336/web"
SOURCE, MODULE = WEB / "kernels.ts", WEB / "kernels-wasm.js"
COMPILER = "assemblyscript@0.28.20"
OPTIONS = "-O3 --converge --noAssert --runtime stub --importMemory --noExportMemory"
HEAD = "// What .ci/kernels.py makes of kernels.ts: WebAssembly in base64. Edit that.\n"


def compile_kernels() -> str:
    "The text of kernels-wasm.js, from its source."
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not installed: it brings the compiler of kernels.ts")
    with TemporaryDirectory() as folder:
        source = shutil.copy(SOURCE, folder)
        compiled = Path(folder) / "kernels.wasm"
        words = ["exec", "--yes", f"--package={COMPILER}", "--", "asc", Path(source).name]
        words += ["--outFile", compiled.name, *OPTIONS.split(), "--enable", "simd"]
        done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"kernels.ts does not compile:\n{done.stdout}{done.stderr}")
        code = base64.b64encode(compiled.read_bytes()).decode("ascii")
    return f'{HEAD}export const WASM = "{code}";\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    found = compile_kernels()
    if not parser.parse_args().check:
        MODULE.write_text(found, encoding="utf-8")
    elif found != MODULE.read_text(encoding="utf-8"):
        sys.exit(f"{MODULE.name} is not what kernels.ts gives: run python .ci/kernels.py")


if __name__ == "__main__":
    main()
