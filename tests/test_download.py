"Downloads from a server on this machine that does everything a server can do wrong."
import hashlib, threading
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
        self.server.answer(self)
    def log_message(self, *args): pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.url = [], f"http://127.0.0.1:{server.server_port}/file.txt"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def send(request, status=200, body=b"", length=None, cut=None, **headers):
    "Answer with `body`; `cut` bytes only, if given, and then hang up."
    request.send_response(status)
    for name, value in headers.items(): request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body[:cut])
    if cut is not None: request.close_connection = True


def serve(request, content=CONTENT, cut=None, **headers):
    "What a good server does, but for `cut`."
    wanted = request.headers.get("Range")
    if not wanted: return send(request, 200, content, cut=cut, **headers)
    start = int(wanted.removeprefix("bytes=").rstrip("-"))
    if start >= len(content): return send(request, 416, Content_Range=f"bytes */{len(content)}")
    send(request, 206, content[start:], cut=cut, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}", **headers)


def fetch(server, tmp_path, **kwargs):
    return download(server.url, tmp_path / "file.txt", pause=0, progress=False, **kwargs)


def only(tmp_path): return sorted(path.name for path in tmp_path.iterdir())


def test_a_file_is_fetched_once(server, tmp_path):
    server.answer = serve
    for _ in range(2): assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert only(tmp_path) == ["file.txt"] and len(server.requests) == 1


def test_a_dropped_connection_is_resumed(server, tmp_path):
    server.answer = lambda request: serve(request, cut=200_000)
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=200000-", "bytes=400000-"]


def test_the_next_call_goes_on_where_this_one_gave_up(server, tmp_path):
    server.answer = lambda request: serve(request, cut=100_000)
    with pytest.raises(ConnectionError, match="2 attempts.*run again"): fetch(server, tmp_path, attempts=2)
    assert only(tmp_path) == ["file.txt.part"]
    server.answer = serve
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=200000-" and only(tmp_path) == ["file.txt"]


def test_a_server_that_ignores_ranges_sends_everything_again(server, tmp_path):
    def answer(request): send(request, 200, CONTENT, cut=300_000 if len(server.requests) == 1 else None)
    server.answer = answer
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT and len(server.requests) == 2


def test_a_wrong_range_is_not_appended(server, tmp_path):
    def answer(request):
        if len(server.requests) == 2: send(request, 206, CONTENT[5:], Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")
        else: serve(request, cut=300_000 if len(server.requests) == 1 else None)
    server.answer = answer
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_a_part_that_is_already_whole(server, tmp_path):
    server.answer = serve
    (tmp_path / "file.txt.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT and len(server.requests) == 1


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    server.answer = serve
    (tmp_path / "file.txt.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_truncated_by_the_server_itself(server, tmp_path):
    "The length fits what is sent, but the hub said that the file is longer."
    server.answer = lambda request: send(request, 200, CONTENT[:1000], X_Linked_Size=str(len(CONTENT)))
    with pytest.raises(ConnectionError, match="1,000 of 512,000 bytes"): fetch(server, tmp_path, attempts=2)
    assert only(tmp_path) == ["file.txt.part"]


def test_404_is_final(server, tmp_path):
    server.answer = lambda request: send(request, 404, b"no such page")
    with pytest.raises(FileNotFoundError, match="404"): fetch(server, tmp_path)
    assert only(tmp_path) == [] and len(server.requests) == 1


def test_403_is_final(server, tmp_path):
    server.answer = lambda request: send(request, 403, b"forbidden")
    with pytest.raises(OSError, match="403"): fetch(server, tmp_path)
    assert only(tmp_path) == [] and len(server.requests) == 1


def test_503_is_tried_again(server, tmp_path):
    def answer(request):
        if len(server.requests) < 3: send(request, 503, b"busy")
        else: serve(request)
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
    with pytest.raises(InputError, match="SHA-256.*expected"): fetch(server, tmp_path, sha256=None if stated else DIGEST)
    assert only(tmp_path) == []


def test_nothing_listens(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="could not be fetched"): fetch(server, tmp_path, attempts=2)


def test_wrong_bytes_in_the_middle_of_a_resumed_file(server, tmp_path):
    "The file changed on the server between two attempts."
    def answer(request): serve(request, CONTENT if len(server.requests) == 1 else b"\1" * len(CONTENT),
                               cut=300_000 if len(server.requests) == 1 else None, X_Linked_Etag=f'"{DIGEST}"')
    server.answer = answer
    with pytest.raises(InputError, match="SHA-256"): fetch(server, tmp_path)
    assert only(tmp_path) == []


def test_tinystories_from_a_mirror(server, tmp_path, monkeypatch):
    "As on the hub: a redirect that states size and digest, then the storage, which may drop the connection."
    def answer(request):
        if request.path.startswith("/storage"): return serve(request, cut=300_000)
        send(request, 302, b"Found", Location="/storage" + request.path, X_Linked_Size=str(len(CONTENT)),
             X_Linked_Etag=f'"{DIGEST}"')
    server.answer = answer
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/file.txt") + "/")
    monkeypatch.setattr(corpus.time, "sleep", lambda seconds: None)
    train, valid = tinystories(tmp_path)
    assert train.name == "TinyStoriesV2-GPT4-train.txt" and valid.name == "TinyStoriesV2-GPT4-valid.txt"
    assert train.read_bytes() == valid.read_bytes() == CONTENT
    assert server.requests[0][0] == "/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt"


def test_a_circle_of_redirects_ends(server, tmp_path):
    server.answer = lambda request: send(request, 302, b"", Location=request.path)
    with pytest.raises(OSError, match="redirects"): fetch(server, tmp_path)
