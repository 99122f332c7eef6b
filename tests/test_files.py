"Files that are whole or not there, folders with one owner, and JSON that is what it says."

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import pytest
import torch

from lm336 import files
from lm336.errors import InputError
from lm336.files import (
    append_json_line,
    atomic_path,
    clear_leftovers,
    log_file,
    made_once,
    owned,
    read_json,
    read_json_lines,
    sha256,
    write_json,
)
from lm336.tensors import load_tensors, save_tensors

posix = pytest.mark.skipif(os.name != "posix", reason="signals and file modes are POSIX's")


def says(process):
    "The next line of what another process prints."
    assert process.stdout is not None, "its output is not piped"
    return process.stdout.readline()


@contextmanager
def python(code, *args):
    "Another process that runs `code`, ready when it has said so; killed at the end."
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert says(process) == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---------------------------------------------------------------- whole or not there

WRITER = """
import sys, time
from lm336.files import atomic_path
with atomic_path(sys.argv[1]) as path:
    path.write_text("half of the n")
    path.with_name(".tmpLIBRARY").write_text("what a library leaves under a name of its own")
    print("ready", flush=True)
    time.sleep(600)
"""


@posix
def test_a_killed_writer_leaves_the_old_file_and_the_next_owner_clears_the_rest(tmp_path):
    theirs = [
        ".mine.tmp",
        ".tmpNOTES",
        "a.txt.tmp",
        ".lm336-unfinished-notes",
        "checkpoints/.own.tmp",
    ]
    for name in ["run/checkpoints/a.txt", *("run/" + name for name in theirs)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    (tmp_path / "run/.lm336-unfinished-folder").mkdir()
    before = names(tmp_path)
    with python(WRITER, tmp_path / "run/checkpoints/a.txt") as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=60)
    assert (tmp_path / "run/checkpoints/a.txt").read_text() == "old"
    assert len(names(tmp_path)) == len(before) + 3
    with owned(tmp_path / "run"):
        assert names(tmp_path) == sorted([*before, "run/.lm336.lock"])


def test_a_folder_that_has_an_owner_of_its_own_is_left_alone(tmp_path):
    with owned(tmp_path / "runs/one"), atomic_path(tmp_path / "runs/one/a.txt") as unfinished:
        unfinished.write_text("new")
        with owned(tmp_path / "runs"):
            pass
    assert (tmp_path / "runs/one/a.txt").read_text() == "new"


def test_links_are_not_followed_when_leftovers_are_cleared(tmp_path):
    (tmp_path / "elsewhere/.lm336-unfinished-abcd1234").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    try:
        (tmp_path / "run/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "run/.lm336-unfinished-abcd1234").symlink_to(tmp_path / "elsewhere")
    except OSError:
        pytest.skip("this system makes no links")
    clear_leftovers(tmp_path / "run")
    assert (tmp_path / "elsewhere/.lm336-unfinished-abcd1234").is_dir()


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"
    with atomic_path(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("new")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "new"


@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_a_finished_file_has_the_mode_that_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.txt") as unfinished:
            unfinished.touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_in_a_files_place_and_a_file_in_a_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for wrong in ("folder", "file/a.txt", "file/b/a.txt"):
        with pytest.raises(InputError, match="folder"), atomic_path(tmp_path / wrong):
            pytest.fail("it should have been refused before anything was written")
    with pytest.raises(InputError, match="a file is in its place"), owned(tmp_path / "file"):
        pass


@posix
def test_the_disk_has_the_file_before_its_name_and_then_the_name(tmp_path, monkeypatch):
    "A power cut must not leave a name without bytes, nor take back the name."
    events = []

    def fsync(handle):
        events.append(
            os.path.realpath(f"/dev/fd/{handle}") if sys.platform == "linux" else "something"
        )

    replace = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(
        os, "replace", lambda old, new: (events.append("renamed"), replace(old, new))
    )
    with atomic_path(tmp_path / "new/folder/a.txt") as unfinished:
        unfinished.write_text("new")
    if sys.platform == "linux":
        assert events[:2] == [str(tmp_path / "new"), str(tmp_path)] and events[2].endswith(
            "/a.txt"
        )
        assert events[3:] == ["renamed", str(tmp_path / "new/folder")]
    assert events.index("renamed") == 3 and len(events) == 5


@pytest.mark.parametrize(
    "number, held",
    [("EINVAL", {"a": 2}), ("ENOTSUP", {"a": 2}), ("ENOSPC", {"a": 1}), ("EIO", {"a": 1})],
)
def test_a_file_system_that_cannot_sync_gets_its_files_and_a_full_disk_does_not(
    tmp_path, monkeypatch, number, held
):
    def fsync(handle):
        raise OSError(getattr(errno, number), "the disk's answer")

    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(os, "fsync", fsync)
    try:
        write_json(tmp_path / "a.json", {"a": 2})
    except OSError as error:
        assert "the disk's answer" in str(error) and held == {"a": 1}
    assert read_json(tmp_path / "a.json") == held and names(tmp_path) == ["a.json"]


# ---------------------------------------------------------------- one owner

OWNER = """
import sys, time
from lm336.files import owned
with owned(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_crash_releases(tmp_path):
    with python(OWNER, tmp_path / "run") as owner:
        with (
            pytest.raises(InputError, match="run is in use by another process: wait for"),
            owned(tmp_path / "run"),
        ):
            pytest.fail("two owners")
        with owned(tmp_path / "other"):
            pass
        owner.kill()
        owner.wait(timeout=60)
        with owned(tmp_path / "run"):
            pass


def test_a_second_thread_is_refused(tmp_path):
    refused = []

    def second():
        try:
            with owned(tmp_path):
                pass
        except InputError as error:
            refused.append(str(error))

    with owned(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=60)
    assert len(refused) == 1
    second()
    assert len(refused) == 1


CONTENDER = """
import os, sys
from lm336.errors import InputError
from lm336.files import owned
print("ready", flush=True)
sys.stdin.readline()
number = 0
while number < 200:
    try:
        with owned(sys.argv[1], keep_lock=False):
            os.mkdir(os.path.join(sys.argv[1], "mine"))  # fails where another owner is inside
            os.rmdir(os.path.join(sys.argv[1], "mine"))
            number += 1
    except InputError:
        pass
"""


def test_a_lock_that_is_removed_at_the_end_lets_nobody_in_before(tmp_path):
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in contenders:
        assert says(process) == "ready\n"
    for process in contenders:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in contenders]
    assert [(process.returncode, err) for process, (_, err) in zip(contenders, results)] == [
        (0, "")
    ] * 3
    assert names(tmp_path) == []


def test_an_owner_may_own_again_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with owned("run"), atomic_path("run/a.txt") as unfinished:
        unfinished.write_text("new")
        for name in ("run", "./run", tmp_path / "run", tmp_path / "run/../run"):
            with owned(name):
                pass
        monkeypatch.chdir(tmp_path / "run")
        with owned("."):
            pass
        with python(TRY, tmp_path / "run") as other:
            assert "in use" in says(other)
    assert (tmp_path / "run/a.txt").read_text() == "new"
    with python(TRY, tmp_path / "run") as other:
        assert says(other) == "mine\n"


TRY = """
import sys
from lm336.files import owned
print("ready", flush=True)
try:
    with owned(sys.argv[1]): print("mine", flush=True)
except ValueError as error: print(error, flush=True)
"""


def test_an_error_inside_releases(tmp_path):
    with pytest.raises(RuntimeError), owned(tmp_path):
        raise RuntimeError
    with python(TRY, tmp_path) as other:
        assert says(other) == "mine\n"


@posix
@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_that_cannot_lock_gives_one_warning(tmp_path, monkeypatch, number):
    import fcntl

    def flock(handle, operation):
        raise OSError(getattr(errno, number), "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with owned(tmp_path), owned(tmp_path):
            write_json(tmp_path / "a.json", {})
    assert (
        len(said) == 1
        and "no locks here" in str(said[0].message)
        and str(tmp_path) in str(said[0].message)
    )
    assert said[0].filename == __file__
    assert read_json(tmp_path / "a.json") == {}


UNWRITABLE = """
import os, sys
from lm336.files import made_once
os.chdir(sys.argv[1])
if os.geteuid() == 0: os.setuid(65534)
print("ready", flush=True)
try:
    with made_once("log.jsonl"): print("made", flush=True)
except OSError as error: print(error.strerror, flush=True)
"""


@posix
def test_where_nothing_can_be_written_no_work_is_begun(tmp_path):
    tmp_path.chmod(0o555)
    with python(UNWRITABLE, tmp_path) as other:
        assert says(other) == "Permission denied\n"
    tmp_path.chmod(0o755)
    assert os.listdir(tmp_path) == []


SECOND = """
import sys
from lm336.files import made_once
print("ready", flush=True)
with made_once(sys.argv[1]) as path: print(path.read_text(), flush=True)
"""


def test_a_file_is_made_once_and_the_second_process_waits(tmp_path):
    holding = made_once(tmp_path / "a.txt")
    path = holding.__enter__()
    with python(SECOND, path) as other:
        assert "waiting" in says(other)
        time.sleep(0.3)  # it must be waiting still
        path.write_text("first")
        holding.__exit__(None, None, None)
        assert says(other) == "first\n"
        other.wait(timeout=60)
    assert names(tmp_path) == ["a.txt"]


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "is not JSON: Expecting value"),
        (b'{"a": 1', "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 at byte 0"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is not a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": "half \\ud83d"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[1, 2]", "must hold a JSON object, not list"),
        (b"null", "must hold a JSON object"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path, content, sentence):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "run.json")
    assert str(error.value).startswith(f"{tmp_path / 'run.json'} ") and sentence in str(
        error.value
    )


def test_json_that_is_whole_comes_back(tmp_path):
    value = {
        "emoji": "🙂 \ud83d\udc00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "numbers": [0, -1.5, 2**80],
        "none": None,
    }
    write_json(tmp_path / "a.json", value)
    assert (
        read_json(tmp_path / "a.json")
        == value
        == json.loads((tmp_path / "a.json").read_text("utf-8"))
    )
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "bom.json", list) == [1]
    with pytest.raises(InputError, match="JSON list, not dict"):
        read_json(tmp_path / "a.json", list)
    with pytest.raises(FileNotFoundError, match="none.json does not exist"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_cannot_be_read_is_not_written(tmp_path, number):
    write_json(tmp_path / "a.json", {"loss": 1.5})
    with pytest.raises(FloatingPointError, match="a.json is not written"):
        write_json(tmp_path / "a.json", {"loss": number})
    assert read_json(tmp_path / "a.json") == {"loss": 1.5} and names(tmp_path) == ["a.json"]


def mutated(data, rng):
    "A copy with one to three changes of the kinds that disks, editors and hands make."
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 2:
            data[at:at] = rng.choice(
                [
                    b"NaN",
                    b"[" * 5000,
                    b"null",
                    b"\x00",
                    b'"',
                    b"\n",
                    b"1e999",
                    b"\\ud800",
                    b"{}",
                    b",",
                    b"9" * 5000,
                ]
            )
        elif kind == 3:
            del data[at:]
        else:
            data[at:at] = data[: rng.randrange(len(data) + 1)]
    return bytes(data)


def test_mutations_give_a_value_or_a_sentence(tmp_path):
    rng, refused = random.Random(336), 0
    write_json(
        tmp_path / "a.json",
        {
            "data": "stories",
            "model": {"layers": 2, "rates": [1e-3, 0.5, None, True]},
            "text": "é🙂",
        },
    )
    whole = (tmp_path / "a.json").read_bytes()
    for _ in range(500):
        (tmp_path / "b.json").write_bytes(mutated(whole, rng))
        try:
            value = read_json(tmp_path / "b.json")
            write_json(tmp_path / "c.json", value)
            assert read_json(tmp_path / "c.json") == value
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'b.json'} ") and "\n" not in str(error)
    assert 300 < refused < 500


def test_mutations_of_a_log_give_its_lines_or_a_sentence(tmp_path):
    rng, refused = random.Random(336), 0
    for step in range(5):
        append_json_line(tmp_path / "a.jsonl", {"step": step, "loss": 1.5})
    whole = (tmp_path / "a.jsonl").read_bytes()
    for _ in range(500):
        (tmp_path / "b.jsonl").write_bytes(mutated(whole, rng))
        try:
            assert all(
                isinstance(line, dict) for line in read_json_lines(tmp_path / "b.jsonl")
            )
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'b.jsonl'}, line ") and "\n" not in str(
                error
            )
    assert 100 < refused < 500


@pytest.mark.parametrize(
    "last, kept",
    [
        (b"", []),
        (b'{"step": 2', []),
        (b'{"step": 2}', [{"step": 2}]),
        (b'{"step": 2}\n', [{"step": 2}]),
        (b"\xff", []),
        (b"2", []),
    ],
)
def test_a_log_goes_on_behind_a_line_that_was_cut_short(tmp_path, last, kept):
    log = tmp_path / "new" / "log.jsonl"
    assert read_json_lines(log) == []
    append_json_line(log, {"step": 1})
    log.write_bytes(log.read_bytes() + last)
    assert read_json_lines(log) == [{"step": 1}, *kept]
    append_json_line(log, {"step": 3, "loss": float("inf")})
    assert read_json_lines(log) == [{"step": 1}, *kept, {"step": 3, "loss": float("inf")}]
    assert log.read_bytes().endswith(b"\n")
    log.write_bytes(b'{"step": 1}\n\n7\n{"step": 2}\n')
    with pytest.raises(InputError, match="log.jsonl, line 3: expected a JSON object"):
        read_json_lines(log)


def test_a_digest_is_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        sha256(tmp_path / "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, B.1


# ---------------------------------------------------------------- the model that comes along


def test_a_folder_called_stories_wins_over_the_model_that_comes_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.pretrained_folder("runs/a") == files.Path("runs/a")
    assert (files.pretrained_folder("stories") / "tokenizer.json").is_file()
    (tmp_path / "stories").mkdir()
    assert files.pretrained_folder("stories") == files.Path("stories")


def test_a_log_is_found_in_a_clone_and_in_an_installed_package(tmp_path, monkeypatch):
    "Wherever the reader is; a log that is not there is named, with those that are."
    monkeypatch.chdir(tmp_path)
    for name in ("experiments", "tokenizer"):
        assert read_json_lines(log_file(name))
    with pytest.raises(FileNotFoundError, match=r"a log 'nothing'; it has .*tokenizer"):
        log_file("nothing")
    package = tmp_path / "lm336"
    (package / "logs").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    with pytest.raises(FileNotFoundError, match=r"it has none: install it again"):
        log_file("tokenizer")
    (package / "logs" / "tokenizer.jsonl").touch()
    assert log_file("tokenizer") == package / "logs" / "tokenizer.jsonl"


# Tensors: of a file that cannot be read, the reason


@pytest.mark.skipif(
    os.name == "nt" or sys.platform == "darwin", reason="file names are Unicode here"
)
def test_tensors_at_a_path_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.safetensors")
    save_tensors({"a": torch.arange(3.0)}, path, {"note": "mine"})
    tensors, metadata = load_tensors(path)
    assert tensors["a"].tolist() == [0, 1, 2] and metadata == {"note": "mine"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated") as error:
        load_tensors(path)
    assert "\\udcff\\udcfe.safetensors" in str(error.value).encode("utf-8").decode()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        load_tensors(path)
    assert "\\udcff\\udcfe.safetensors" in str(error.value).encode("utf-8").decode()


@posix
def test_tensors_that_cannot_be_opened_are_not_said_to_be_damaged_or_missing(tmp_path):
    import resource

    save_tensors({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    load_tensors(tmp_path / "a.safetensors")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError) as error:
        load_tensors(tmp_path / "loop")
    assert error.value.errno == errno.ELOOP and error.value.filename == str(tmp_path / "loop")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError) as error:
            load_tensors(tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.value.errno == errno.EMFILE
    assert error.value.filename == str(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="is a folder; a safetensors file is needed"):
        load_tensors(tmp_path)


@posix
@pytest.mark.skipif(
    os.name == "posix" and os.geteuid() == 0, reason="root may read everything"
)
def test_tensors_that_may_not_be_read(tmp_path):
    save_tensors({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").chmod(0)
    with pytest.raises(PermissionError, match="a.safetensors"):
        load_tensors(tmp_path / "a.safetensors")
