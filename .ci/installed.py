"""The package as others get it.

Sdist and wheel are built, the sdist is installed into an empty environment, and tried in an
empty folder.

    python .ci/installed.py [--torch torch==2.13.0] [--chapters 06_attention records]

About three minutes, most of them installation; the checkout is only read.
"""
import argparse
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
MEGABYTES = 8  # no wheel is larger
PACKAGE_FILES = ("*.py", "*.pyi", "*.txt", "*.mplstyle", "py.typed", "presets/*.json", "web/*")
ALONE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
"""


def run(name: str, *command, **options) -> str:
    """What a command printed. How long it took is said.

    The program ends where the command fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        text=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    print(f"{time.perf_counter() - start:6.1f} s  {name}", flush=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\n{name} failed with exit status {done.returncode}")
    return done.stdout


def copy_source(target: Path):
    "What the repository holds and would hold, without what lies about."
    command = "git", "ls-files", "-co", "--exclude-standard"
    listed = run("list of the source files", *command, cwd=ROOT)
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


def check_wheel(wheel: Path):
    "Its size, what must be in it, and what an index shows of it."
    size = wheel.stat().st_size
    assert size < MEGABYTES * 1e6, f"{wheel.name} has {size:,} bytes"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        described = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(described).decode()
    wanted = {f"lm336/stories/{path.name}" for path in (ROOT / "data/demo").glob("[!.]*")}
    wanted |= {f"lm336/logs/{path.name}" for path in logs()} | package_files()
    wanted |= {f"lm336/chapters/{path.name}" for path in chapters()}
    assert wanted <= names, f"{wheel.name} lacks {sorted(wanted - names)}"
    for field in (
        "License-Expression: Apache-2.0",
        "Project-URL: Source",
        "Classifier: Programming Language :: Python",
    ):
        assert field in metadata, f"{wheel.name} does not say {field}"
    relative = re.findall(r'(?:\]\(|src="|href=")(?!https?:|#|mailto:)[^)"]+', metadata)
    assert not relative, f"an index cannot follow {relative}"
    print(f"          {wheel.name}: {size / 1e6:.1f} MB, {len(names)} files")


def check_sdist(sdist: Path):
    "What must be in it: the package can be built again from it."
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = package_files() | {"settings.ini", "setup.py", "README.md", "LICENSE"}
    wanted |= {f"data/demo/{path.name}" for path in (ROOT / "data/demo").glob("[!.]*")}
    wanted |= {path.relative_to(ROOT).as_posix() for path in [*logs(), *chapters()]}
    assert wanted <= names, f"{sdist.name} lacks {sorted(wanted - names)}"


def logs() -> list[Path]:
    "The logs that chapters read."
    return [*ROOT.glob("data/*.jsonl"), *ROOT.glob("benchmarks/*.jsonl")]


def chapters() -> list[Path]:
    "The notebooks whose exercises come with the package."
    return list(ROOT.glob("nbs/[0-9][0-9]_*.ipynb"))


def package_files() -> set[str]:
    "The files of the package that a checkout has."
    paths = (path for kind in PACKAGE_FILES for path in (ROOT / "lm336").glob(kind))
    return {path.relative_to(ROOT).as_posix() for path in paths}


def build(source: Path, target: Path) -> Path:
    "Build the sdist, and from it the wheel; the sdist's path."
    run("build of sdist and wheel", sys.executable, "-m", "build", "--outdir", target, source)
    check_wheel(next(target.glob("*.whl")))
    sdist = next(target.glob("*.tar.gz"))
    check_sdist(sdist)
    return sdist


def environment(folder: Path, torch: str, sdist: Path) -> Path:
    """An environment with torch, the package, and what runs a notebook.

    The folder of its programs."""
    run("empty environment", sys.executable, "-m", "venv", "--without-pip", folder)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    pip = "-m", "pip", "install", "--quiet"
    run("pip", sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip")
    run(torch, python, ROOT / ".ci/install_torch.py", torch)
    code = "from importlib.metadata import version; print(version('torch'))"
    version = [python, "-c", code]
    before = run("version of torch", *version)
    packages = sdist, "nbclient", "ipykernel"
    run("pip install lm336 nbclient ipykernel", python, *pip, *packages)
    after = run("version of torch", *version)
    changed = f"torch {before.strip()} to {after.strip()}"
    assert before == after, f"pip install lm336 changed {changed}"
    return programs


def commands(programs: Path, folder: Path, chapters: list[str]):
    "What a new user does, in an empty folder."
    ours = "PYTHON", "JUPYTER", "LM336"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    clean |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}

    def tried(*command) -> str:
        name, *args = command
        return run(" ".join(command), programs / name, *args, cwd=folder, env=clean)

    assert "lm336" in tried("lm336", "--version")
    assert "lm336" in tried("python", "-m", "lm336", "--version")
    home = tried("python", "-c", "import lm336; print(lm336.__file__)")
    assert Path(home.strip()).is_relative_to(programs.parent.resolve()), f"tried was {home}"
    begin = "Once upon a time"
    short = "--prompt", begin, "--max_new_tokens", "40"
    assert tried("lm336_generate", "stories", *short).startswith(begin)
    tried("lm336_demo", "--minutes", "0.2")
    assert (folder / "runs/demo/report.md").exists(), "lm336_demo left no report"
    assert tried("lm336_generate", "runs/demo", *short).startswith(begin)
    tried("lm336_web", "stories", "--out", "page")
    assert (folder / "page/index.html").exists(), "lm336_web left no page"
    for chapter in chapters:
        name = f"{chapter}.ipynb"
        (folder / name).write_bytes((ROOT / "nbs" / name).read_bytes())
        alone = programs / "python", "-c", ALONE, name
        run(f"chapter {chapter} alone", *alone, cwd=folder, env=clean)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="torch==2.13.0", help="as pip would have it")
    parser.add_argument(
        "--chapters",
        nargs="*",
        default=["02_tokenizer", "06_attention", "14_generation", "records"],
        help="notebooks to run alone",
    )
    args = parser.parse_args()
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary).resolve()
        (folder / "empty").mkdir()
        copy_source(folder / "source")
        sdist = build(folder / "source", folder / "dist")
        programs = environment(folder / "env", args.torch, sdist)
        commands(programs, folder / "empty", args.chapters)
    print("installed and tried: all well")


if __name__ == "__main__":
    main()
