"""Tests in the arithmetic of another machine: its processor, number format or threads.

    python .ci/costume.py avx2          float32 as on a processor without AVX512
    python .ci/costume.py float32       float32 as this processor has it
    python .ci/costume.py bfloat16      bfloat16, where the processor has it
    python .ci/costume.py threads       two threads instead of one
    python .ci/costume.py NAME COMMAND ...    any command instead of all notebooks and tests

Before the tests it prints checksums of a matrix product and of a softmax, with the costume and
without. A costume of another processor that changes neither, on a processor with AVX512, does
not dress: that is an error.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

COSTUMES = {
    "avx2": {
        "LM336_PRECISION": "float32",
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        # a kernel kept for one processor corrupts memory when it is run as another's
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    },
    "float32": {"LM336_PRECISION": "float32"},
    "bfloat16": {"LM336_PRECISION": "bfloat16"},
    "threads": {"OMP_NUM_THREADS": "2"},
}
# what a costume of another processor sets
PROCESSOR = {"MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"}


def arithmetic() -> dict:
    """What this process computes with: its instructions, precision and threads.

    And the digests of two results."""
    import torch

    from lm336.accounting import cpu_has_bfloat16
    from lm336.devices import pick_precision

    generator = torch.Generator().manual_seed(336)
    a, b = (torch.randn(shape, generator=generator) for shape in [(512, 640), (640, 384)])

    def digest(result):
        return hashlib.sha256(result.numpy().tobytes()).hexdigest()[:16]

    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": str(pick_precision(torch.device("cpu"))),
        "bfloat16": bool(cpu_has_bfloat16()),
        "threads": torch.get_num_threads(),
        "product": digest(a @ b),
        "softmax": digest((3 * a).softmax(-1)),
    }


def measured(environment: dict) -> dict:
    "`arithmetic` of a process with this environment."
    script = [sys.executable, __file__, "--arithmetic"]
    done = subprocess.run(script, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def not_dressed(name: str, plain: dict, dressed: dict) -> str | None:
    "What is wrong with a costume as it was measured; None for nothing."
    if PROCESSOR & COSTUMES[name].keys() and plain["instructions"] == "AVX512":
        same = [what for what in ("product", "softmax") if plain[what] == dressed[what]]
        if same:
            return f"the {' and the '.join(same)} came out as without it"
    variables = {"precision": "LM336_PRECISION", "threads": "OMP_NUM_THREADS"}
    for what, variable in variables.items():
        wanted = COSTUMES[name].get(variable)
        if wanted is not None and str(dressed[what]) != wanted:
            return f"{variable} is {wanted}, and the {what} {dressed[what]}"
    return None


def main(name: str, *command: str):
    undressed = os.environ.keys() - PROCESSOR - {"LM336_PRECISION"}
    bare = {key: os.environ[key] for key in undressed}
    bare.setdefault("OMP_NUM_THREADS", "1")
    worn = bare | COSTUMES[name]
    plain = measured(bare)
    if name == "bfloat16" and not plain["bfloat16"]:
        print("this processor has no bfloat16 arithmetic: nothing is tested in this costume")
        return
    dressed = measured(worn)
    for kind, result in {"as it is": plain, name: dressed}.items():
        said = ", ".join(f"{key} {value}" for key, value in result.items())
        print(f"{kind:>8}: {said}")
    fault = not_dressed(name, plain, dressed)
    if fault is not None:
        sys.exit(f"the costume {name} does not dress: {fault}")
    workers = "1" if name == "threads" else "2"
    script = Path(__file__).with_name("run_tests.py")
    tests = [sys.executable, str(script), "--workers", workers]
    sys.exit(subprocess.run(command or tests, env=worn).returncode)


if __name__ == "__main__":
    if sys.argv[1:] == ["--arithmetic"]:
        print(json.dumps(arithmetic()))
    elif len(sys.argv) > 1 and sys.argv[1] in COSTUMES:
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)
