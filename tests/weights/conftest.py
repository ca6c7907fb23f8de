"""A web server that misbehaves on demand, an empty cache, and an environment without surprises."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stemsplit.weights.patience import Patience
from stemsplit.weights.registry import ModelEntry, WeightFile
from stemsplit.weights.store import Store

Behaviour = Callable[["Handler"], None]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HostileServer

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.behaviour_of(self)(self)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass

    @property
    def start(self) -> int:
        """Where the Range that was asked for begins."""
        return int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])

    def head(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        kind = {"Content-Type": "application/octet-stream", "Connection": "close"}
        for name, value in {**kind, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def reset(self) -> None:
        """End the connection with a RST instead of a FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class HostileServer(ThreadingHTTPServer):
    """Answers each request to a path with the next of its behaviours; the last one stays."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, list[Behaviour]] = {}
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        self.guard = threading.Lock()

    def handle_error(self, *args: object) -> None:
        pass  # clients hang up here on purpose

    def url(self, path: str = "/file.pth") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def put(self, *behaviours: Behaviour, path: str = "/file.pth") -> str:
        self.routes[path] = list(behaviours)
        return self.url(path)

    def behaviour_of(self, handler: Handler) -> Behaviour:
        with self.guard:
            self.asked.append(Asked(handler.command, handler.path, dict(handler.headers)))
            left = self.routes.get(handler.path.partition("?")[0], [status(404)])
            return left.pop(0) if len(left) > 1 else left[0]

    def ranges(self) -> list[str | None]:
        """Return what Range each request asked for."""
        return [one.headers.get("Range") for one in self.asked]


def whole(data: bytes, *, etag: str | None = '"v1"', ranges: bool = True) -> Behaviour:
    """Behave: the whole file, or the range asked for while the ETag is the same."""

    def behave(handler: Handler) -> None:
        headers: dict[str, object] = {"ETag": etag} if etag else {}
        is_same = handler.headers.get("If-Range", etag) == etag
        start = handler.start if ranges and is_same else 0
        if start >= len(data) and start:
            handler.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers["Content-Length"] = len(data) - start
        handler.head(206 if start else 200, headers)
        handler.body(data[start:])

    return behave


def cut(data: bytes, count: int, *, etag: str | None = '"v1"', reset: bool = False) -> Behaviour:
    """Behave: promise everything that was asked for, and hang up after `count` bytes of it."""

    def behave(handler: Handler) -> None:
        start = handler.start
        headers: dict[str, object] = {"Content-Length": len(data) - start}
        if etag:
            headers["ETag"] = etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.head(206 if start else 200, headers)
        handler.body(data[start : start + count])
        if reset:
            handler.reset()

    return behave


def stall(data: bytes, count: int) -> Behaviour:
    """Behave: `count` bytes, then silence until the test ends."""

    def behave(handler: Handler) -> None:
        handler.head(200, {"Content-Length": len(data), "ETag": '"v1"'})
        handler.body(data[:count])
        handler.server.ended.wait(20)

    return behave


def status(code: int, headers: dict[str, object] | None = None, body: bytes = b"no") -> Behaviour:
    """Behave: a status, with a short body."""

    def behave(handler: Handler) -> None:
        handler.head(code, {"Content-Length": len(body), **(headers or {})})
        handler.body(body)

    return behave


def redirect(location: str, code: int = 302) -> Behaviour:
    """Behave: send the client elsewhere."""
    return status(code, {"Location": location}, b"")


def answer(code: int, headers: dict[str, object], body: bytes) -> Behaviour:
    """Behave: exactly these headers, whatever the body is."""

    def behave(handler: Handler) -> None:
        handler.head(code, headers)
        handler.body(body)

    return behave


class Behaviours:
    """The behaviours above, for tests to name."""

    whole = staticmethod(whole)
    cut = staticmethod(cut)
    stall = staticmethod(stall)
    status = staticmethod(status)
    redirect = staticmethod(redirect)
    answer = staticmethod(answer)


@pytest.fixture
def behave() -> type[Behaviours]:
    return Behaviours


@pytest.fixture
def server() -> Iterator[HostileServer]:
    server = HostileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def patience() -> Patience:
    return Patience(timeout_s=0.3, attempts=3, first_wait_s=0.0, longest_wait_s=0.05)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def make_store(root: Path, patience: Patience) -> Callable[..., Store]:
    return lambda **options: Store(root, **{"offline": False, "patience": patience, **options})


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("STEMSPLIT_CACHE", "STEMSPLIT_OFFLINE", "STEMSPLIT_REGISTRY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "APPDATA"):
        monkeypatch.setenv(name, str(home))


@pytest.fixture
def data() -> bytes:
    """Return a file's worth of bytes without a pattern, the same in every run."""
    return b"".join(hashlib.sha256(bytes([n])).digest() for n in range(250)) * 50


@pytest.fixture
def make_entry() -> Callable[..., ModelEntry]:
    def make(*files: WeightFile, name: str = "model") -> ModelEntry:
        return ModelEntry(
            name=name,
            description="made by a test",
            architecture="spleeter",
            config={},
            stems=("vocals", "accompaniment"),
            sample_rate=44100,
            channels=2,
            chunk={},
            files=files,
            members=(),
            licence="MIT",
            source_page="nowhere",
            paper=None,
            residual=None,
            verified=None,
            scores=(),
        )

    return make


@pytest.fixture
def make_file() -> Callable[..., WeightFile]:
    def make(*source: str, **values: object) -> WeightFile:
        values = {"format": "numpy", "name": "file.pth", **values}
        return WeightFile(source=source, **values)  # type: ignore[arg-type]  # tests choose

    return make
