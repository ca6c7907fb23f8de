from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stemsplit.datasets import fetch_sample, open_dataset
from stemsplit.datasets.sample import SAMPLE_URL
from stemsplit.errors import ArchiveError, DatasetError, HttpStatusError, OfflineError
from stemsplit.weights.patience import Patience

QUICK = Patience(timeout_s=5, attempts=1)


class Server(ThreadingHTTPServer):
    """Answers every request with the same bytes, and counts them."""

    daemon_threads = True
    body = b""
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200 if self.server.body else 404)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STEMSPLIT_OFFLINE", raising=False)
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def pack(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, name)
    return data.getvalue()


DAMAGED = pack("train/A.stem.mp4").replace(b".stem.mp4train", b".stem.mp4trash")


def fetch(server: Server) -> Path:
    return fetch_sample(url=f"http://127.0.0.1:{server.server_port}/s.zip", patience=QUICK)


@pytest.mark.parametrize("lead", ["", "MUSDB18-7/"])
def test_the_sample_is_fetched_once(server: Server, tmp_path: Path, lead: str) -> None:
    server.body = pack(
        f"{lead}train/A - B.stem.mp4", f"{lead}test/C.stem.mp4", f"{lead}README.md", "train/._A.txt"
    )
    root = fetch(server)
    assert root.is_relative_to(tmp_path / "cache")
    assert {track.name: track.split for track in open_dataset(root).tracks} == {
        "A - B": "train",
        "C": "test",
    }
    assert sorted(path.name for path in root.parent.iterdir() if path.name[0] != ".") == [root.name]
    assert fetch(server) == root
    assert fetch_sample(offline=True) == root
    assert server.requests == 1


def test_offline_nothing_is_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OfflineError) as caught:
        fetch_sample(offline=True)
    assert "--root" in caught.value.help
    monkeypatch.setenv("STEMSPLIT_OFFLINE", "1")
    with pytest.raises(OfflineError):
        fetch(server)
    assert server.requests == 0


def test_a_failed_download_says_of_what(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HttpStatusError, match=r"MUSDB18's 7-second sample: .*404") as caught:
        fetch(server)
    assert "--root FOLDER" in caught.value.help
    assert not (tmp_path / "cache" / "datasets" / "musdb18-7s").exists()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"no zip", ArchiveError),
        (pack("train/A.mp3"), DatasetError),
        (pack("train/A.stem.mp4", "../test/B.stem.mp4"), ArchiveError),
        (DAMAGED, ArchiveError),
    ],
)
def test_what_is_no_sample_leaves_nothing(
    server: Server, tmp_path: Path, body: bytes, error: type[Exception]
) -> None:
    server.body = body
    with pytest.raises(error):
        fetch(server)
    folder = tmp_path / "cache" / "datasets"
    assert [path.name for path in folder.iterdir() if path.name[0] != "."] == []


def test_the_address_is_that_of_the_musdb_package(distribution_file) -> None:  # type: ignore[no-untyped-def]
    import yaml

    table = yaml.safe_load(distribution_file("musdb", "musdb/configs/mus.yaml").read_text())
    assert table["sample-url"] == SAMPLE_URL
