"Downloads from a hub on this machine that does everything a server can do wrong."

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lm336.corpus import corpus_files
from lm336.download import fetch_from_hub, tinystories
from lm336.errors import InputError

from .conftest import ROOT

CONTENT = bytes(range(256)) * 2000
OTHER = b"\1" + CONTENT[:-1]
COMMIT = "0123456789" * 4
PIECE = 1000  # what the library keeps of a broken answer is a multiple of this
wait = time.sleep


def digest(content):
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- the hub


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.note().head(self)

    def do_GET(self):
        self.note().get(self)

    def note(self):
        assert isinstance(self.server, Hub)
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        self.server.authorizations.add(self.headers.get("Authorization"))
        return self.server

    def log_message(self, format, *args):
        pass


class Hub(ThreadingHTTPServer):
    "Says of every file that it is `content`; what it does is changed by `head` and `get`."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests, self.authorizations = [], set()
        self.content, self.head, self.get = CONTENT, state, serve

    def handle_error(self, request, client_address):
        "Who hangs up early is no news."

    def ranges(self):
        return [wanted for command, _, wanted in self.requests if command == "GET"]

    def gets(self):
        return len(self.ranges())


def send(request, status=200, body=b"", length=None, cut=None, **headers):
    "Answer with `body`; `cut` bytes only, if given, and then hang up."
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body[:cut])
    if cut is not None:
        request.close_connection = True


def state(request, status=200, **headers):
    "What a hub says of a file: its commit, its size and its SHA-256."
    content = request.server.content
    stated = {
        "X_Repo_Commit": COMMIT,
        "X_Linked_Size": str(len(content)),
        "X_Linked_Etag": f'"{digest(content)}"',
    }
    send(request, status, b"", 0, None, **(stated | headers))


def serve(request, content=None, cut=None):
    "What a good server does, but for `cut`."
    content = request.server.content if content is None else content
    wanted = request.headers.get("Range")
    if not wanted:
        send(request, 200, content, cut=cut)
        return
    start = int(wanted.removeprefix("bytes=").rstrip("-"))
    if start >= len(content):
        send(request, 416, Content_Range=f"bytes */{len(content)}")
        return
    stated = f"bytes {start}-{len(content) - 1}/{len(content)}"
    send(request, 206, content[start:], cut=cut, Content_Range=stated)


def answer(status, body=b""):
    return lambda request: send(request, status, body)


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    close_session()  # whoever opened it may have known other variables
    yield server
    close_session()
    server.shutdown()
    server.server_close()


def fetch(folder, name="file.txt"):
    return fetch_from_hub("somebody/stories", folder / name)


def only(folder):
    return sorted(path.name for path in folder.iterdir())


def part_of(content):
    return f"file.txt.{digest(content)[:12]}.part"


# ---------------------------------------------------------------- whole, or not there


def test_a_file_is_fetched_once(hub, tmp_path):
    for _ in range(2):
        assert fetch(tmp_path).read_bytes() == CONTENT
    assert only(tmp_path) == ["file.txt"]
    path = "/datasets/somebody/stories/resolve/{}/file.txt"
    assert hub.requests == [
        ("HEAD", path.format("main"), None),
        ("GET", path.format(COMMIT), None),
    ]


def test_a_dropped_connection_is_resumed(hub, tmp_path):
    hub.get = lambda request: serve(request, cut=200_000)
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert hub.ranges() == [None, "bytes=200000-", "bytes=400000-"]
    assert only(tmp_path) == ["file.txt"]


def test_the_next_call_goes_on_where_this_one_gave_up(hub, tmp_path):
    hub.get = lambda request: serve(request, cut=100_000 if hub.gets() == 1 else 0)
    with pytest.raises(ConnectionError, match="could not be fetched .* run again to continue"):
        fetch(tmp_path)
    assert only(tmp_path) == [part_of(CONTENT)]
    hub.get = serve
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert hub.ranges()[-1] == "bytes=100000-" and only(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_what_a_killed_process_had_is_gone_on_with(hub, tmp_path):
    halted = threading.Event()

    def halt(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        request.wfile.write(CONTENT[:300_000])
        halted.wait(60)

    hub.get = halt
    with start(hub, tmp_path) as process:
        try:
            end = time.monotonic() + 60
            while not any(path.stat().st_size for path in tmp_path.glob("*.part")):
                assert process.poll() is None and time.monotonic() < end, "nothing came"
                wait(0.01)
        finally:
            process.kill()
            halted.set()
    kept = (tmp_path / part_of(CONTENT)).stat().st_size
    hub.get = serve
    assert 0 < kept <= 300_000 and fetch(tmp_path).read_bytes() == CONTENT
    assert hub.ranges()[-1] == f"bytes={kept}-" and only(tmp_path) == ["file.txt"]


def start(hub, folder):
    "Another process that fetches the file."
    code = (
        "import sys; from huggingface_hub import constants; "
        f"constants.DOWNLOAD_CHUNK_SIZE = {PIECE}; from lm336.download import fetch_from_hub; "
        "fetch_from_hub('somebody/stories', sys.argv[1])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "file.txt")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_server_that_ignores_ranges_sends_everything_again(hub, tmp_path):
    hub.get = lambda request: send(
        request, 200, CONTENT, cut=300_000 if hub.gets() == 1 else None
    )
    assert fetch(tmp_path).read_bytes() == CONTENT and hub.gets() == 2


def test_a_wrong_range_is_noticed_and_thrown_away(hub, tmp_path):
    def get(request):
        if hub.gets() == 1:
            serve(request, cut=300_000)
        else:
            stated = f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"
            rest = CONTENT[5 : 5 + len(CONTENT) - 300_000]
            send(request, 206, rest, Content_Range=stated)

    hub.get = get
    with pytest.raises(InputError, match="with SHA-256 .*, expected .* thrown away"):
        fetch(tmp_path)
    assert only(tmp_path) == []
    hub.get = serve
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_not_asked_for(hub, tmp_path):
    (tmp_path / part_of(CONTENT)).write_bytes(CONTENT)
    assert fetch(tmp_path).read_bytes() == CONTENT and hub.gets() == 0
    assert only(tmp_path) == ["file.txt"]


def test_a_part_that_is_already_whole_is_not_believed(hub, tmp_path):
    (tmp_path / part_of(CONTENT)).write_bytes(OTHER)
    with pytest.raises(InputError, match="SHA-256"):
        fetch(tmp_path)
    assert only(tmp_path) == [] and fetch(tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(hub, tmp_path):
    (tmp_path / part_of(CONTENT)).write_bytes(CONTENT + b"more")
    assert fetch(tmp_path).read_bytes() == CONTENT and hub.ranges() == [None]


def test_truncated_by_the_server_itself(hub, tmp_path):
    "The length fits what is sent, but the hub said that the file is longer."
    hub.get = lambda request: send(request, 200, CONTENT[:1000])
    with pytest.raises(ConnectionError, match="512000 but has size 1000.*run again"):
        fetch(tmp_path)
    assert only(tmp_path) == [part_of(CONTENT)]
    hub.get = serve
    assert fetch(tmp_path).read_bytes() == CONTENT and hub.ranges()[-1] == "bytes=1000-"


def test_longer_than_the_hub_said(hub, tmp_path):
    hub.get = lambda request: send(request, 200, CONTENT + b"more")
    with pytest.raises(ConnectionError, match="512000 but has size 512004"):
        fetch(tmp_path)
    hub.get = serve
    assert fetch(tmp_path).read_bytes() == CONTENT and only(tmp_path) == ["file.txt"]


def test_wrong_bytes_are_thrown_away(hub, tmp_path):
    hub.get = lambda request: serve(request, OTHER)
    with pytest.raises(InputError, match="with SHA-256 .*, expected .* thrown away"):
        fetch(tmp_path)
    assert only(tmp_path) == []


def test_wrong_bytes_in_the_middle_of_a_resumed_file(hub, tmp_path):
    "The server has another file between two attempts, and does not say so."
    hub.get = lambda request: serve(
        request, *((CONTENT, 300_000) if hub.gets() == 1 else (b"\1" * len(CONTENT), None))
    )
    with pytest.raises(InputError, match="SHA-256"):
        fetch(tmp_path)
    assert only(tmp_path) == []


def test_a_part_of_another_version_is_not_joined(hub, tmp_path):
    hub.get = lambda request: serve(request, cut=300_000 if hub.gets() == 1 else 0)
    with pytest.raises(ConnectionError):
        fetch(tmp_path)
    hub.content, hub.get = OTHER, serve
    assert fetch(tmp_path).read_bytes() == OTHER
    assert hub.ranges()[-1] is None and only(tmp_path) == ["file.txt"]


def test_what_the_first_edition_left_is_removed(hub, tmp_path):
    (tmp_path / "file.txt.part").write_bytes(CONTENT[:1000])
    (tmp_path / "file.txt.part.version").write_text(digest(CONTENT))
    (tmp_path / "file.txt.gz").write_bytes(b"mine")
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert only(tmp_path) == ["file.txt", "file.txt.gz"]


# ---------------------------------------------------------------- a sentence for every failure


@pytest.mark.parametrize(
    "status, kind, sentence",
    [
        (404, FileNotFoundError, "file.txt of somebody/stories .* does not exist.* .404"),
        (403, OSError, "answered 403; expected a file"),
        (401, OSError, "answered 401; expected a file"),
        (503, ConnectionError, "answered 503.; run again"),
        (429, ConnectionError, "answered 429.; run again"),
    ],
)
@pytest.mark.parametrize("command", ["head", "get"])
def test_a_status_that_is_none_of_a_file(hub, tmp_path, command, status, kind, sentence):
    setattr(hub, command, answer(status, b"a page" if command == "get" else b""))
    with pytest.raises(kind, match=sentence) as caught:
        fetch(tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "file.txt").exists()
    assert status >= 429 or len(hub.requests) <= 2, "what cannot change is asked for once"


def test_what_the_hub_itself_says_is_not_there(hub, tmp_path):
    hub.head = lambda request: send(request, 404, X_Error_Code="EntryNotFound")
    with pytest.raises(FileNotFoundError, match="404"):
        fetch(tmp_path)
    assert only(tmp_path) == []


@pytest.mark.parametrize("command", ["head", "get"])
def test_a_busy_hub_is_asked_again(hub, tmp_path, command):
    as_usual = getattr(hub, command)
    busy = iter([503, 429, 500])

    def answer(request):
        status = next(busy, None)
        if status is None:
            as_usual(request)
        else:
            send(request, status, length=0)

    setattr(hub, command, answer)
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_nothing_listens(hub, tmp_path):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ConnectionError, match="could not be fetched .*run again"):
        fetch(tmp_path)
    assert only(tmp_path) == []


@pytest.mark.parametrize(
    "lack", ["X_Repo_Commit", "X_Linked_Etag", "X_Linked_Size"], ids=["commit", "etag", "size"]
)
def test_an_address_that_is_no_hub(hub, tmp_path, lack):
    "The page of a hotel's network, say."

    def head(request):
        request.server.content = CONTENT
        stated = {
            "X_Repo_Commit": COMMIT,
            "X_Linked_Size": str(len(CONTENT)),
            "X_Linked_Etag": f'"{digest(CONTENT)}"',
        }
        del stated[lack]
        request.send_response(200)
        for name, value in stated.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    hub.head = head
    with pytest.raises(InputError, match="states no commit, .* give another HF_ENDPOINT"):
        fetch(tmp_path)
    assert hub.gets() == 0 and only(tmp_path) == []


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "ftp://127.0.0.1", "http://", "http://[::1", "http://127.0.0.1:port"]
)
def test_an_endpoint_that_is_no_address(hub, tmp_path, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(InputError, match="HF_ENDPOINT is .*must be an http or https address"):
        fetch(tmp_path)
    assert only(tmp_path) == []


@pytest.mark.parametrize(
    "headers, length",
    [
        ({"Content_Range": "nonsense"}, "many"),
        ({}, "-5"),
        ({}, "512000, 512001"),
        ({"Content_Encoding": "br"}, None),
        ({"ETag": "\xe9\xff"}, None),
        ({"Location": "http://[::1"}, None),
    ],
)
@pytest.mark.parametrize("status", [200, 302])
def test_odd_answers_are_one_sentence(hub, tmp_path, headers, length, status):
    hub.get = lambda request: send(request, status, CONTENT, length, len(CONTENT), **headers)
    try:
        assert fetch(tmp_path).read_bytes() == CONTENT
    except (OSError, InputError) as error:
        assert "\n" not in str(error) and not (tmp_path / "file.txt").exists()


def test_a_circle_of_redirects_ends(hub, tmp_path):
    hub.get = lambda request: send(request, 302, Location=request.path)
    with pytest.raises(ConnectionError, match="TooManyRedirects"):
        fetch(tmp_path)


def test_a_full_disk_is_said_as_it_is(hub, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fetch(tmp_path)
    assert not isinstance(caught.value, ConnectionError)
    assert not (tmp_path / "file.txt").exists()


def test_offline_is_said_at_once(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="while HF_HUB_OFFLINE is set"):
        fetch(tmp_path)
    assert hub.requests == []


def test_a_folder_in_the_files_place(hub, tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        fetch(tmp_path)
    assert hub.requests == []


def test_nobodys_token_is_sent(hub, tmp_path, monkeypatch):
    "The data are public, and a mirror is not the hub."
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert hub.authorizations == {None}


# ---------------------------------------------------------------- two at once


def test_two_processes_fetch_a_file_once(hub, tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def get(request):
        begun.set()
        go_on.wait(60)
        serve(request)

    hub.get = get
    processes = [start(hub, tmp_path) for _ in range(2)]
    try:
        assert begun.wait(60)
        said = []
        for process in processes:
            reader = threading.Thread(
                target=lambda out: said.append(out.readline()), args=(process.stdout,)
            )
            reader.daemon = True
            reader.start()
        end = time.monotonic() + 60
        while not any("waiting" in line for line in said):
            assert time.monotonic() < end, "nobody waits"
            wait(0.01)
        go_on.set()
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert (tmp_path / "file.txt").read_bytes() == CONTENT
    asked = [command for command, _, _ in hub.requests]
    assert asked.count("HEAD") == 1, "both have asked for it"
    assert only(tmp_path) == ["file.txt"]


# ---------------------------------------------------------------- TinyStories


def test_tinystories_from_a_hub_that_stores_elsewhere(hub, tmp_path, monkeypatch):
    "As on the real one: a redirect that states size and digest, then storage, which hangs up."

    def elsewhere(request):
        location = f"http://localhost:{hub.server_port}/storage{request.path}"
        state(request, 302, Location=location)

    def get(request):
        if request.path.startswith("/storage"):
            serve(request, cut=300_000)
        else:
            elsewhere(request)

    hub.head, hub.get = elsewhere, get
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    train, valid = tinystories(tmp_path)
    assert train.name == "TinyStoriesV2-GPT4-train.txt"
    assert valid.name == "TinyStoriesV2-GPT4-valid.txt"
    assert train.read_bytes() == valid.read_bytes() == CONTENT
    assert hub.requests[0][:2] == (
        "HEAD",
        "/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
    )


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"LM336_CACHE": "{tmp}/mine"}, "mine/tinystories"),
        ({"XDG_CACHE_HOME": "{tmp}/caches"}, "caches/lm336/tinystories"),
        ({}, "home/.cache/lm336/tinystories"),
    ],
)
def test_tinystories_has_a_place_of_its_own_and_says_so(
    hub, tmp_path, monkeypatch, capsys, variables, expected
):
    for name in ("LM336_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    monkeypatch.chdir(tmp_path)
    train, valid = corpus_files("tinystories", "run/data")
    assert train.parent == valid.parent == tmp_path / expected
    assert train.read_bytes() == CONTENT
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"TinyStories is kept in {tmp_path / expected}"
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()
    corpus_files("tinystories", "run/data")
    assert hub.gets() == 2


def test_what_is_there_needs_no_network(tmp_path, monkeypatch):
    "Also what the first edition fetched."
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("train", "valid"):
        (tmp_path / f"TinyStoriesV2-GPT4-{name}.txt").write_text("Once upon a time")
    assert [path.read_text() for path in tinystories(tmp_path)] == ["Once upon a time"] * 2


def test_the_hubs_library_is_loaded_only_to_download(tmp_path):
    code = "import sys, lm336.download, lm336.corpus; print('huggingface_hub' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
