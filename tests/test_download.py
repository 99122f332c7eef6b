"Downloads from a server on this machine that does everything a server can do wrong."

import gzip
import hashlib
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lm336 import corpus
from lm336.corpus import download, tinystories
from lm336.errors import InputError

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.asked.append(self.headers.get("If-Range"))
        self.server.answer(self)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # who hangs up early is no news
    server.requests, server.asked, server.url = (
        [],
        [],
        f"http://127.0.0.1:{server.server_port}/file.txt",
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def send(request, status=200, body=b"", length=None, cut=None, **headers):
    "Answer with `body`; `cut` bytes only, if given, and then hang up."
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body[:cut])
    if cut is not None:
        request.close_connection = True


def serve(request, content=CONTENT, cut=None, etag='"one"', **headers):
    "What a good server does, but for `cut`."
    wanted, kept = request.headers.get("Range"), request.headers.get("If-Range")
    if etag:
        headers["ETag"] = etag
    if not wanted or kept and kept != etag:
        return send(request, 200, content, cut=cut, **headers)
    start = int(wanted.removeprefix("bytes=").rstrip("-"))
    if start >= len(content):
        return send(request, 416, Content_Range=f"bytes */{len(content)}")
    send(
        request,
        206,
        content[start:],
        cut=cut,
        Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}",
        **headers,
    )


def fetch(server, tmp_path, **kwargs):
    return download(server.url, tmp_path / "file.txt", pause=0, progress=False, **kwargs)


def only(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_file_is_fetched_once(server, tmp_path):
    server.answer = serve
    for _ in range(2):
        assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert only(tmp_path) == ["file.txt"] and len(server.requests) == 1


def test_a_dropped_connection_is_resumed(server, tmp_path):
    server.answer = lambda request: serve(request, cut=200_000)
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [
        None,
        "bytes=200000-",
        "bytes=400000-",
    ]


def test_the_next_call_goes_on_where_this_one_gave_up(server, tmp_path):
    server.answer = lambda request: serve(request, cut=100_000)
    with pytest.raises(ConnectionError, match="2 attempts.*run again"):
        fetch(server, tmp_path, attempts=2)
    assert only(tmp_path) == ["file.txt.part", "file.txt.part.version"]
    server.answer = serve
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert (
        server.requests[-1][1] == "bytes=200000-"
        and server.asked[-1] == '"one"'
        and only(tmp_path) == ["file.txt"]
    )


def test_a_server_that_ignores_ranges_sends_everything_again(server, tmp_path):
    def answer(request):
        send(request, 200, CONTENT, cut=300_000 if len(server.requests) == 1 else None)

    server.answer = answer
    assert (
        fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
        and len(server.requests) == 2
    )


def test_a_wrong_range_is_not_appended(server, tmp_path):
    def answer(request):
        if len(server.requests) == 2:
            send(
                request,
                206,
                CONTENT[5:],
                Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}",
            )
        else:
            serve(request, cut=300_000 if len(server.requests) == 1 else None)

    server.answer = answer
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_a_part_that_is_already_whole(server, tmp_path):
    server.answer = serve
    (tmp_path / "file.txt.part").write_bytes(CONTENT)
    assert (
        fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
        and len(server.requests) == 1
    )


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    server.answer = serve
    (tmp_path / "file.txt.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_truncated_by_the_server_itself(server, tmp_path):
    "The length fits what is sent, but the hub said that the file is longer."
    server.answer = lambda request: send(
        request, 200, CONTENT[:1000], X_Linked_Size=str(len(CONTENT))
    )
    with pytest.raises(ConnectionError, match="1,000 of 512,000 bytes"):
        fetch(server, tmp_path, attempts=2)
    assert only(tmp_path) == ["file.txt.part", "file.txt.part.version"]


def test_404_is_final(server, tmp_path):
    server.answer = lambda request: send(request, 404, b"no such page")
    with pytest.raises(FileNotFoundError, match="404"):
        fetch(server, tmp_path)
    assert only(tmp_path) == [] and len(server.requests) == 1


def test_403_is_final(server, tmp_path):
    server.answer = lambda request: send(request, 403, b"forbidden")
    with pytest.raises(OSError, match="403"):
        fetch(server, tmp_path)
    assert only(tmp_path) == [] and len(server.requests) == 1


def test_503_is_tried_again(server, tmp_path):
    def answer(request):
        if len(server.requests) < 3:
            send(request, 503, b"busy")
        else:
            serve(request)

    server.answer = answer
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    server.answer = lambda request: send(request, 503, b"busy")
    with pytest.raises(ConnectionError, match="503"):
        download(server.url, tmp_path / "other.txt", attempts=3, pause=0, progress=False)
    assert only(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("stated", [True, False])
def test_wrong_bytes_are_thrown_away(server, tmp_path, stated):
    wrong = b"\1" + CONTENT[1:]
    headers = {"X_Linked_Etag": f'"{DIGEST}"'} if stated else {}
    server.answer = lambda request: serve(request, wrong, **headers)
    with pytest.raises(InputError, match="SHA-256.*expected"):
        fetch(server, tmp_path, sha256=None if stated else DIGEST)
    assert only(tmp_path) == []


def test_nothing_listens(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="could not be fetched"):
        fetch(server, tmp_path, attempts=2)


def test_wrong_bytes_in_the_middle_of_a_resumed_file(server, tmp_path):
    "The file changed on the server between two attempts."

    def answer(request):
        serve(
            request,
            CONTENT if len(server.requests) == 1 else b"\1" * len(CONTENT),
            cut=300_000 if len(server.requests) == 1 else None,
            X_Linked_Etag=f'"{DIGEST}"',
        )

    server.answer = answer
    with pytest.raises(InputError, match="SHA-256"):
        fetch(server, tmp_path)
    assert only(tmp_path) == []


def test_tinystories_from_a_mirror(server, tmp_path, monkeypatch):
    "As on the hub: a redirect that states size and digest, then storage, which may hang up."

    def answer(request):
        if request.path.startswith("/storage"):
            return serve(request, cut=300_000)
        send(
            request,
            302,
            b"Found",
            Location="/storage" + request.path,
            X_Linked_Size=str(len(CONTENT)),
            X_Linked_Etag=f'"{DIGEST}"',
        )

    server.answer = answer
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/file.txt") + "/")
    monkeypatch.setattr(corpus.time, "sleep", lambda seconds: None)
    train, valid = tinystories(tmp_path)
    assert (
        train.name == "TinyStoriesV2-GPT4-train.txt"
        and valid.name == "TinyStoriesV2-GPT4-valid.txt"
    )
    assert train.read_bytes() == valid.read_bytes() == CONTENT
    assert (
        server.requests[0][0]
        == "/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt"
    )


def test_a_circle_of_redirects_ends(server, tmp_path):
    server.answer = lambda request: send(request, 302, b"", Location=request.path)
    with pytest.raises(OSError, match="redirects"):
        fetch(server, tmp_path)


# ---------------------------------------------------------------- which version it is

OTHER = b"\1" + CONTENT[:-1]


@pytest.mark.parametrize(
    "how", ["asks", "ignores the question", "has no name for it", "dates it", "is not sure"]
)
def test_a_part_is_joined_to_its_own_version_only(server, tmp_path, how):
    "The file changes after 300,000 bytes, and nobody knows a digest: never half of each."

    def answer(request):
        first = len(server.requests) == 1
        content, etag = (CONTENT, '"one"') if first else (OTHER, '"two"')
        if how == "ignores the question":
            del request.headers["If-Range"]
        if how == "has no name for it":
            etag = None
        if how == "dates it":
            etag, date = (
                None,
                "Mon, 01 Jan 2024 00:00:00 GMT" if first else "Tue, 02 Jan 2024 00:00:00 GMT",
            )
            return serve(
                request, content, 300_000 if first else None, etag=etag, Last_Modified=date
            )
        if how == "is not sure":
            etag = 'W/"alike"'
        serve(request, content, 300_000 if first else None, etag=etag)

    server.answer = answer
    assert fetch(server, tmp_path).read_bytes() == OTHER
    assert server.requests[1][1] == "bytes=300000-"
    assert server.asked[1] == {
        "asks": '"one"',
        "dates it": "Mon, 01 Jan 2024 00:00:00 GMT",
        "ignores the question": '"one"',
    }.get(how)
    assert only(tmp_path) == ["file.txt"]


def test_the_same_version_is_joined_without_a_digest(server, tmp_path):
    server.answer = lambda request: serve(request, cut=200_000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for wanted in server.asked] == [None, '"one"', '"one"']
    assert [wanted for _, wanted in server.requests] == [
        None,
        "bytes=200000-",
        "bytes=400000-",
    ]


def test_a_part_of_another_file_of_the_hub_is_not_joined(server, tmp_path):
    "The hub's redirect states another digest than when the part was begun."

    def answer(request):
        first = len(server.requests) == 1
        content = CONTENT if first else OTHER
        serve(
            request,
            content,
            300_000 if first else None,
            etag=None,
            X_Linked_Etag=f'"{hashlib.sha256(content).hexdigest()}"',
        )

    server.answer = answer
    assert fetch(server, tmp_path).read_bytes() == OTHER


def test_a_part_whose_end_the_server_does_not_know_is_not_taken_for_whole(server, tmp_path):
    (tmp_path / "file.txt.part").write_bytes(OTHER)
    server.answer = serve
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("stated", [True, False])
def test_a_server_that_sends_small_ranges(server, tmp_path, stated):
    "Each answer is a whole answer of 100,000 bytes, whose range says that there is more."

    def answer(request):
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        end = min(start + 100_000, len(CONTENT))
        send(
            request,
            206,
            CONTENT[start:end],
            Content_Range=f"bytes {start}-{end - 1}/{len(CONTENT)}",
            ETag='"one"',
        )

    server.answer = answer
    assert fetch(server, tmp_path, sha256=DIGEST if stated else None).read_bytes() == CONTENT


# ---------------------------------------------------------------- packed on the way


@pytest.mark.parametrize("packing", ["gzip", "x-gzip", "deflate", "GZIP"])
def test_what_is_packed_on_the_way_is_unpacked(server, tmp_path, packing):
    packed = zlib.compress(CONTENT) if packing == "deflate" else gzip.compress(CONTENT)

    def answer(request):
        assert request.headers["Accept-Encoding"] == "identity"
        send(
            request,
            200,
            packed,
            cut=len(packed) // 2 if len(server.requests) == 1 else None,
            Content_Encoding=packing,
            ETag='"one"',
        )

    server.answer = answer
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, None], (
        "half of a packed file cannot be gone on with"
    )


def test_a_packed_rest_is_not_joined(server, tmp_path):
    def answer(request):
        if len(server.requests) == 2:
            rest = gzip.compress(CONTENT)[300_000:]
            return send(
                request,
                206,
                rest,
                Content_Range=f"bytes 300000-{300_000 + len(rest) - 1}/*",
                Content_Encoding="gzip",
                ETag='"one"',
            )
        serve(request, cut=300_000 if len(server.requests) == 1 else None)

    server.answer = answer
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_a_gz_file_stays_one(server, tmp_path):
    packed = gzip.compress(CONTENT)
    server.answer = lambda request: send(request, 200, packed, Content_Encoding="gzip")
    assert (
        download(server.url, tmp_path / "file.txt.gz", progress=False).read_bytes() == packed
    )


@pytest.mark.parametrize(
    "packing, body, sentence",
    [
        ("br", CONTENT, "packs it as 'br'"),
        ("gzip", CONTENT, "could not be fetched in 2 attempts"),
    ],
)
def test_what_cannot_be_unpacked(server, tmp_path, packing, body, sentence):
    server.answer = lambda request: send(request, 200, body, Content_Encoding=packing)
    with pytest.raises(OSError, match=sentence):
        fetch(server, tmp_path, attempts=2)
    assert not (tmp_path / "file.txt").exists()


# ---------------------------------------------------------------- odd answers and addresses


@pytest.mark.parametrize(
    "location, sentence",
    [
        (None, "a redirect to nowhere"),
        ("", "a redirect to nowhere"),
        ("ftp://example.org/a", "no http or https address"),
        ("file:///etc/passwd", "no http or https address"),
        ("http:///a", "too many redirects"),
        ("//[bad/", "no http or https address"),
        ("http://example.org:port/a", "no http or https address"),
        ("http://[::1", "no http or https address"),
        ("http://exam ple.org/", "no address that can be asked"),
        ("mailto:me", "no http or https address"),
    ],
)
def test_odd_redirects_are_one_sentence(server, tmp_path, location, sentence):
    def answer(request):
        send(request, 302, b"", **({} if location is None else {"Location": location}))

    server.answer = answer
    with pytest.raises(OSError, match=sentence):
        fetch(server, tmp_path)
    assert only(tmp_path) == []


@pytest.mark.parametrize(
    "headers, length",
    [
        ({"Content_Range": "nonsense"}, "many"),
        ({}, "-5"),
        ({}, "512000, 512000"),
        ({"X_Linked_Size": "large"}, None),
        ({"X_Linked_Size": "9" * 5000}, None),
        ({"ETag": "\xe9\xff"}, None),
        ({"X_Linked_Etag": "W/" + "0" * 64}, None),
    ],
)
def test_odd_headers_are_no_traceback(server, tmp_path, headers, length):
    def answer(request):
        send(request, 200, CONTENT, length=length, cut=len(CONTENT), **headers)

    server.answer = answer
    try:
        assert fetch(server, tmp_path, attempts=2).read_bytes() == CONTENT
    except (OSError, InputError) as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "story.txt",
        "ftp://example.org/a",
        "http://",
        "http://[::1",
        "http://example.org:port/",
        "file:///a",
    ],
)
def test_what_is_no_address(tmp_path, url):
    with pytest.raises(InputError, match="no http or https address"):
        download(url, tmp_path / "file.txt", progress=False)
    assert only(tmp_path) == []


def test_a_folder_in_the_files_place(server, tmp_path):
    server.answer = serve
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        fetch(server, tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("proxy", ["nonsense", "ftp://127.0.0.1:1", "http://[::1"])
def test_an_odd_proxy_is_one_sentence(tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(InputError, match="http_proxy in the environment"):
        download("http://example.org/a", tmp_path / "file.txt", progress=False)


# ---------------------------------------------------------------- two at once


def test_two_processes_fetch_a_file_once(server, tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def answer(request):
        begun.set()
        go_on.wait(60)
        serve(request)

    server.answer = answer
    target = str(tmp_path / "file.txt")
    code = f"from lm336.corpus import download; download({server.url!r}, {target!r}, progress=False)"
    first, second = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert begun.wait(60)
        lines = []
        for process in (first, second):
            threading.Thread(
                target=lambda process=process: lines.append(process.stdout.readline()),
                daemon=True,
            ).start()
        end = time.monotonic() + 60
        while not any("waiting" in line for line in lines):
            assert time.monotonic() < end, "nobody waits"
            time.sleep(0.01)
        go_on.set()
        assert first.wait(60) == second.wait(60) == 0
    finally:
        first.kill(), second.kill()
    assert (
        len(server.requests) == 1
        and (tmp_path / "file.txt").read_bytes() == CONTENT
        and only(tmp_path) == ["file.txt"]
    )


# ---------------------------------------------------------------- where TinyStories goes


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"LM336_CACHE": "{tmp}/mine"}, "mine/tinystories"),
        ({"XDG_CACHE_HOME": "{tmp}/caches"}, "caches/lm336/tinystories"),
        ({}, "home/.cache/lm336/tinystories"),
    ],
)
def test_tinystories_has_a_place_of_its_own_and_says_so(
    server, tmp_path, monkeypatch, capsys, variables, expected
):
    server.answer = serve
    for name in ("LM336_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/file.txt"))
    monkeypatch.chdir(tmp_path)
    train, valid = corpus.corpus_files("tinystories", "run/data")
    assert (
        train.parent == valid.parent == tmp_path / expected and train.read_bytes() == CONTENT
    )
    assert (
        f"TinyStories is kept in {tmp_path / expected}"
        in capsys.readouterr().out.splitlines()[0]
    )
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()
    corpus.corpus_files("tinystories", "run/data")
    assert len(server.requests) == 2
