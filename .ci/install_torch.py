"""Install torch into the environment of the Python that runs this:

    python .ci/install_torch.py [torch==2.13.0]

With CUDA where there is an NVIDIA GPU; else the CPU build, which PyTorch serves from an index
of its own.
"""

import os
import shutil
import subprocess
import sys
from urllib.request import urlopen

INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")


def reachable(index: str) -> bool:
    "Whether the index answers."
    try:
        urlopen(index + "/torch/", timeout=5).close()
    except OSError:
        return False
    return True


def has_gpu() -> bool:
    "Whether NVIDIA's driver is here and finds a GPU."
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True).returncode == 0


def main(torch: str):
    source = []
    if not has_gpu():
        if reachable(INDEX):
            source = ["--index-url", INDEX]
        else:
            print(f"{INDEX} cannot be reached: taking {torch} from the default index")
    print("installing", torch, *source, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    sys.exit(subprocess.run([*pip, torch, *source]).returncode)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["torch==2.13.0"]))
