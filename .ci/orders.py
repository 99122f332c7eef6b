"""The tests in three fixed orders, the last of them twice.

From another folder, as an ordinary user, leaving nothing behind.

    python .ci/orders.py [--user nobody] [--workers 2] [PYTEST_ARGUMENT ...]

What is tested is a clone of the last commit. Root hands the tests to the user named; anybody
else is an ordinary user. An order is one of files, and of the tests within each: the next file
goes to the first worker that is free.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from run_tests import in_parallel

ROOT = Path(__file__).parents[1]
SEEDS = (1, 2, 3, 3)


def ordinary(user: str) -> dict:
    """What makes `subprocess` run a command as an ordinary user, who this process may be
    already."""
    if os.name == "nt" or os.geteuid() != 0:
        return {}
    import pwd

    found = pwd.getpwnam(user)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def runs(python: Path, identity: dict) -> bool:
    "Whether that user may run this Python."
    try:
        done = subprocess.run([python, "-c", ""], cwd="/", capture_output=True, **identity)
    except PermissionError:
        return False
    return done.returncode == 0


def environment(folder: Path, identity: dict) -> Path:
    """A Python with the packages of this one, which the user may run.

    Root's own Python may lie where nobody else can read: then the system's of the same version
    has to do.
    """
    if runs(Path(sys.executable), identity):
        return Path(sys.executable)
    name = f"python3.{sys.version_info.minor}"
    system = shutil.which(name, path="/usr/local/bin:/usr/bin")
    if system is None:
        sys.exit(
            f"{sys.executable} is for root alone, and there is no other {name}: "
            "run this as an ordinary user"
        )
    subprocess.run([system, "-m", "venv", "--without-pip", folder], check=True)
    mine, theirs = Path(sys.prefix), folder / "lib" / name / "site-packages"
    packages = mine / "lib" / name / "site-packages"
    (theirs / "packages.pth").write_text(f"{packages}\n", encoding="utf-8")
    for settings in ("etc/jupyter", "share/jupyter"):
        shutil.copytree(mine / settings, folder / settings, symlinks=True)
    return folder / "bin/python"


def left_behind(checkout: Path, elsewhere: Path) -> list[str]:
    """What lies in the checkout, or in the folder the tests were called from, and was not
    there before."""
    git = ["git", "-c", f"safe.directory={checkout}", "status", "--porcelain", "--ignored"]
    done = subprocess.run(git, cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.splitlines() + [str(path) for path in elsewhere.iterdir()]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--user", default="nobody", help="whom root hands the tests to")
    parser.add_argument("--workers", type=int, default=2, help="test files at a time")
    args, pytest_arguments = parser.parse_known_args()
    identity, failed = ordinary(args.user), []
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = Path(folder).resolve()
        names = ("lm336", "elsewhere", "home", "tmp")
        checkout, elsewhere, home, temporary = (folder / name for name in names)
        subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
        for made in (elsewhere, home, temporary):
            made.mkdir()
        python = environment(folder / "environment", identity)
        if identity:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, identity["user"], identity["group"], follow_symlinks=False)
        text = os.environ.get("LM336_TEXT", ROOT.parent / "shared/data/tinyshakespeare.txt")
        env = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
            "LM336_TEXT": str(text),
        }
        env.pop("LM336_PROC", None)
        for number, seed in enumerate(SEEDS, 1):
            start = time.perf_counter()
            print(f"order {seed} ({number} of {len(SEEDS)})", flush=True)
            options = ["-q", "-p", "no:cacheprovider", "--timeout", "600"]
            options += [f"--random-order-seed={seed}", "--no-loadscope-reorder"]
            options += in_parallel(args.workers)
            pytest = [python, "-m", "pytest", *options, *pytest_arguments]
            command = [*pytest, checkout / "tests"]
            status = subprocess.run(command, cwd=elsewhere, env=env, **identity).returncode
            left = left_behind(checkout, elsewhere)
            result = "failed" if status else f"left behind {left}" if left else "passed"
            seconds = time.perf_counter() - start
            print(f"order {seed}: {result} in {seconds:.0f} s", flush=True)
            if result != "passed":
                failed.append(seed)
    sys.exit(f"not green in the orders {failed}" if failed else 0)


if __name__ == "__main__":
    main()
