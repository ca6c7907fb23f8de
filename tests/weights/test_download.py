"""One file over HTTP, from servers that misbehave in every way known to us.

Each misbehaviour is followed by good behaviour: no bad file may be left, and the next try succeeds.

One file, since the server and the list of its misbehaviours are what it is about.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import stemsplit.weights.download as download
from stemsplit.errors import (
    DiskFullError,
    DownloadError,
    HashMismatchError,
    HttpStatusError,
    NetworkError,
    OutputError,
    TruncatedError,
)
from stemsplit.weights.connection import find_next, parse_retry_after
from stemsplit.weights.digests import Known
from stemsplit.weights.download import download_file
from stemsplit.weights.patience import Patience


def pin(data: bytes) -> Known:
    return Known(sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder / "file.pth"


@pytest.fixture
def fetch(target: Path, patience: Patience) -> Callable[..., str]:
    def fetch(url: str, known: Known | None = None, **options: Any) -> str:
        return download_file(url, target, known, **{"patience": patience, **options})

    return fetch


def assert_nothing_bad(target: Path) -> None:
    """Only a part may be there, and what is noted of it."""
    assert not target.exists()
    assert {path.suffix for path in target.parent.iterdir()} <= {".part", ".json"}


def assert_done(target: Path, data: bytes) -> None:
    assert target.read_bytes() == data
    assert list(target.parent.iterdir()) == [target]


# What goes right


@pytest.mark.parametrize("known", [None, "pin"])
def test_a_file_arrives_with_its_hash_and_its_progress(server, behave, fetch, target, data, known):
    progress: list[tuple[int, int | None]] = []
    digest = fetch(
        server.put(behave.whole(data)),
        pin(data) if known else None,
        on_progress=lambda *p: progress.append(p),
    )
    assert digest == hashlib.sha256(data).hexdigest()
    assert_done(target, data)
    assert progress[-1] == (len(data), len(data))
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert {total for _, total in progress} == {len(data)}


def test_an_empty_file_is_a_file(server, behave, fetch, target):
    fetch(server.put(behave.whole(b"")))
    assert_done(target, b"")


def test_a_chunked_answer_without_a_length_is_read(server, behave, fetch, target):
    chunked = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    progress: list[tuple[int, int | None]] = []
    fetch(
        server.put(behave.answer(200, {"Transfer-Encoding": "chunked"}, chunked)),
        on_progress=lambda *p: progress.append(p),
    )
    assert_done(target, b"hello world")
    assert progress[-1] == (11, None)


def test_nobody_asks_for_compression(server, behave, fetch, data):
    fetch(server.put(behave.whole(data)))
    assert server.asked[0].headers["Accept-Encoding"] == "identity"
    assert server.asked[0].headers["User-Agent"] == "stemsplit"
    assert "Range" not in server.asked[0].headers


# Breaks and resumption


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_download_goes_on_where_it_broke(server, behave, fetch, target, data, reset):
    url = server.put(behave.cut(data, 150_000, reset=reset), behave.whole(data))
    digest = fetch(url, pin(data))
    assert digest == hashlib.sha256(data).hexdigest()
    assert_done(target, data)
    first, second = server.asked
    assert "Range" not in first.headers
    start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    # A reset may take some of what was sent along with it.
    assert start == 150_000 if not reset else 0 < start <= 150_000
    assert second.headers["If-Range"] == '"v1"'


def test_a_later_process_goes_on_too(server, behave, fetch, target, data, patience):
    url = server.put(behave.cut(data, 150_000), behave.status(500))
    with pytest.raises(HttpStatusError):
        fetch(url)
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url)
    assert_done(target, data)
    assert server.ranges()[-1] == "bytes=150000-"


def test_many_breaks_are_borne_while_there_is_headway(
    server, behave, fetch, target, data, monkeypatch
):
    monkeypatch.setattr(download, "HEADWAY_BYTES", 30_000)
    url = server.put(*[behave.cut(data, 40_000)] * 9, behave.whole(data))
    fetch(url, pin(data))
    assert_done(target, data)
    assert len(server.asked) == 10


def test_a_server_that_always_breaks_ends_as_truncated(server, behave, fetch, target, data):
    url = server.put(behave.cut(data, 0))
    with pytest.raises(TruncatedError, match="0 of 400000 bytes"):
        fetch(url)
    assert len(server.asked) == 3
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url)
    assert_done(target, data)


def test_a_file_that_changed_meanwhile_starts_over(server, behave, fetch, target, data):
    fresh = bytes(reversed(data))
    url = server.put(behave.cut(data, 150_000), behave.whole(fresh, etag='"v2"'))
    fetch(url)
    assert server.ranges() == [None, "bytes=150000-"]
    assert_done(target, fresh)


def test_two_halves_of_different_files_are_noticed(server, behave, fetch, target, data):
    fresh = bytes(reversed(data))
    # This server ignores If-Range: only the published hash tells.
    url = server.put(behave.cut(data, 150_000), behave.cut(fresh, 400_000), behave.whole(fresh))
    fetch(url, pin(fresh))
    assert server.ranges() == [None, "bytes=150000-", None]
    assert_done(target, fresh)


def test_a_server_without_ranges_starts_over(server, behave, fetch, target, data):
    url = server.put(behave.cut(data, 150_000), behave.whole(data, ranges=False))
    fetch(url, pin(data))
    assert server.ranges() == [None, "bytes=150000-"]
    assert_done(target, data)


def test_without_a_validator_only_a_pinned_file_is_resumed(server, behave, fetch, target, data):
    script = behave.cut(data, 150_000, etag=None), behave.whole(data, etag=None)
    fetch(server.put(*script))
    assert server.ranges() == [None, None]
    target.unlink()
    fetch(server.put(*script), pin(data))
    assert server.ranges()[2:] == [None, "bytes=150000-"]
    assert "If-Range" not in server.asked[3].headers
    assert_done(target, data)


def test_a_weak_etag_is_no_validator(server, behave, fetch, target, data):
    fetch(server.put(behave.cut(data, 150_000, etag='W/"v1"'), behave.whole(data)))
    assert server.ranges() == [None, None]
    assert_done(target, data)


def test_last_modified_is_one(server, behave, fetch, target, data):
    date = "Tue, 01 Jul 2025 10:00:00 GMT"
    short = behave.answer(200, {"Content-Length": len(data), "Last-Modified": date}, data[:90])
    fetch(server.put(short, behave.whole(data, etag=date)))
    assert server.asked[1].headers["If-Range"] == date
    assert_done(target, data)


def test_a_part_of_another_url_is_not_continued(server, behave, fetch, target, data):
    with pytest.raises(TruncatedError):
        fetch(server.put(behave.cut(b"x" * 400_000, 7_000), behave.cut(b"x" * 400_000, 0)))
    fetch(server.put(behave.whole(data), path="/other"))
    assert server.ranges()[-1] is None
    assert_done(target, data)


@pytest.mark.parametrize("size", [400_000, None])
def test_a_part_that_is_the_whole_file_is_taken(server, behave, fetch, target, data, size):
    part = target.with_name("file.pth.part")
    part.write_bytes(data)
    fetch(server.put(behave.whole(data)), Known(pin(data).sha256, size=size))
    assert server.ranges() == ["bytes=400000-"]
    assert_done(target, data)


@pytest.mark.parametrize("stale", [b"y" * 10, b"y" * 400_000, b"y" * 500_000])
def test_a_stale_part_is_discarded(server, behave, fetch, target, data, stale):
    target.with_name("file.pth.part").write_bytes(stale)
    target.with_name("file.pth.part.json").write_text("{nonsense")
    fetch(server.put(behave.whole(data)), Known(pin(data).sha256, size=len(data)))
    assert_done(target, data)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-399999/400000"},
        {"Content-Range": "bytes 149999-399999/400000"},
        {"Content-Range": "bytes 150001-399999/400000"},
        {"Content-Range": "bytes */400000"},
        {"Content-Range": "150000-399999"},
        {},
    ],
)
def test_a_wrong_content_range_is_rejected(server, behave, fetch, target, data, headers):
    wrong = behave.answer(206, {"Content-Length": 250_000, **headers}, b"z" * 250_000)
    url = server.put(behave.cut(data, 150_000), wrong, behave.whole(data))
    fetch(url)
    assert server.ranges() == [None, "bytes=150000-", None]
    assert_done(target, data)


def test_a_range_that_nobody_asked_for_is_rejected(server, behave, fetch, target, data):
    headers = {"Content-Length": 10, "Content-Range": "bytes 0-9/400000"}
    with pytest.raises(NetworkError, match="was asked for the bytes from 0 on"):
        fetch(server.put(behave.answer(206, headers, data[:10])))
    assert_nothing_bad(target)


def test_a_range_beyond_a_shorter_file_starts_over(server, behave, fetch, target, data):
    short = data[:1000]
    url = server.put(behave.cut(data, 150_000), behave.whole(short))
    fetch(url)
    assert server.ranges() == [None, "bytes=150000-", None]
    assert_done(target, short)


# Lies about the length


def test_a_length_that_is_too_long_is_truncation(server, behave, fetch, target, data):
    url = server.put(behave.answer(200, {"Content-Length": len(data) + 5, "ETag": '"a"'}, data))
    with pytest.raises(TruncatedError, match="400000 of 400005"):
        fetch(url, pin(data))
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url, pin(data))
    assert_done(target, data)


@pytest.mark.parametrize("known", ["sha256", "size", "checksum"])
def test_a_length_that_is_too_short_is_noticed(server, behave, fetch, target, data, known):
    digest = hashlib.sha256(data).hexdigest()
    facts = {
        "sha256": Known(sha256=digest),
        "size": Known(size=len(data)),
        "checksum": Known(checksum=f"sha256-prefix:{digest[:8]}"),
    }[known]
    url = server.put(behave.answer(200, {"Content-Length": 1000}, data))
    with pytest.raises(TruncatedError if known == "size" else HashMismatchError):
        fetch(url, facts)
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url, facts)
    assert_done(target, data)


def test_without_length_and_hash_there_is_no_trust(server, behave, fetch, target, data):
    url = server.put(behave.answer(200, {}, data))
    with pytest.raises(NetworkError, match="does not say how long"):
        fetch(url)
    assert_nothing_bad(target)
    fetch(url, pin(data))
    assert_done(target, data)


def test_a_chunked_answer_that_breaks_off_is_not_whole(server, behave, fetch, target):
    broken = behave.answer(200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n6\r\n wo")
    good = behave.answer(200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n")
    fetch(server.put(broken, good))
    assert server.ranges() == [None, None]
    assert_done(target, b"hello")


@pytest.mark.parametrize("known", [Known(size=1000), Known()])
def test_a_server_that_sends_for_ever_is_cut(
    server, behave, fetch, target, known, monkeypatch, patience
):
    monkeypatch.setattr(download, "MAX_BYTES", 5000)

    def endless(handler: Any) -> None:
        handler.head(200, {"Transfer-Encoding": "chunked"})
        for _ in range(100_000):
            if handler.server.ended.is_set():
                break
            handler.body(b"400\r\n" + b"e" * 1024 + b"\r\n")

    with pytest.raises(TruncatedError, match="more than the"):
        fetch(server.put(endless), known)
    assert_nothing_bad(target)
    assert not target.with_name("file.pth.part").exists()


@pytest.mark.parametrize("length", ["-5", "many", "1e3"])
def test_a_length_that_is_no_number_is_ignored(server, behave, fetch, target, data, length):
    url = server.put(behave.answer(200, {"Content-Length": length}, data))
    fetch(url, pin(data))
    assert_done(target, data)


# Wrong bytes


@pytest.mark.parametrize(
    "facts",
    [
        "sha256",
        "sha256-prefix",
        "sha1",
        "git-blob",
    ],
)
def test_wrong_bytes_are_refused_whatever_hash_is_known(server, behave, fetch, target, data, facts):
    digits = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha256-prefix": hashlib.sha256(data).hexdigest()[:8],
        "sha1": hashlib.sha1(data).hexdigest(),
        "git-blob": hashlib.sha1(b"blob 400000\0" + data).hexdigest(),
    }[facts]
    known = Known(sha256=digits) if facts == "sha256" else Known(checksum=f"{facts}:{digits}")
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    url = server.put(behave.whole(wrong))
    with pytest.raises(HashMismatchError) as caught:
        fetch(url, known)
    assert digits in caught.value.message
    assert list(target.parent.iterdir()) == []
    assert len(server.asked) == 1  # asking again for the same bytes helps nobody
    server.put(behave.whole(data))
    fetch(url, known)
    assert_done(target, data)


def test_a_compressed_body_is_refused(server, behave, fetch, target, data):
    packed = gzip.compress(data)
    headers = {"Content-Encoding": "gzip", "Content-Length": len(packed)}
    with pytest.raises(NetworkError, match="'gzip'"):
        fetch(server.put(behave.answer(200, headers, packed)))
    assert_nothing_bad(target)


def test_a_web_page_is_no_file(server, behave, fetch, target):
    page = b"<html>Log in to the hotel's network"
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": len(page)}
    with pytest.raises(NetworkError, match="web page"):
        fetch(server.put(behave.answer(200, headers, page)))
    assert_nothing_bad(target)


# Statuses


@pytest.mark.parametrize("code", [400, 401, 403, 404, 407, 410, 451])
def test_a_refusal_is_final(server, behave, fetch, target, data, code):
    url = server.put(behave.status(code))
    with pytest.raises(HttpStatusError, match=str(code)) as caught:
        fetch(url)
    assert caught.value.help
    assert len(server.asked) == 1
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url)
    assert_done(target, data)


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_trouble_is_borne(server, behave, fetch, target, data, code):
    fetch(server.put(behave.status(code), behave.status(code), behave.whole(data)))
    assert_done(target, data)
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [429, 500])
def test_a_lasting_trouble_is_told(server, behave, fetch, target, data, code):
    url = server.put(behave.status(code))
    with pytest.raises(HttpStatusError, match=str(code)):
        fetch(url)
    assert len(server.asked) == 3
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url)
    assert_done(target, data)


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_without_a_file_is_told(server, behave, fetch, target, code):
    with pytest.raises(HttpStatusError, match=str(code)):
        fetch(server.put(behave.answer(code, {}, b"")))
    assert_nothing_bad(target)


def test_retry_after_is_heeded_up_to_a_limit(server, behave, fetch, data, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    calm = Patience(timeout_s=1, attempts=4, first_wait_s=0.5, longest_wait_s=30)
    later = behave.status(429, {"Retry-After": "7"})
    much_later = behave.status(503, {"Retry-After": "86400"})
    fetch(server.put(later, much_later, behave.status(500), behave.whole(data)), patience=calm)
    assert waits[:2] == [7.0, 30.0]
    assert 1.0 <= waits[2] <= 2.0


def test_waits_grow_and_scatter_and_end() -> None:
    patience = Patience(first_wait_s=1.0, longest_wait_s=10.0)
    for failures, wait_s in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (50, 10.0)]:
        waits = {patience.compute_wait(failures, None) for _ in range(20)}
        assert len(waits) > 1
        assert all(wait_s / 2 <= one <= wait_s for one in waits)
    assert patience.compute_wait(1, -5.0) == 0.0


def test_retry_after_is_seconds_or_a_date() -> None:
    assert parse_retry_after("120") == 120.0
    assert parse_retry_after(None) is None
    assert parse_retry_after("soon") is None
    assert parse_retry_after("-3") is None
    coming = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert 90 < (parse_retry_after(format_datetime(coming, usegmt=True)) or 0) <= 100
    assert parse_retry_after("Tue, 01 Jul 2025 10:00:00 GMT") == 0.0
    assert parse_retry_after("Tue, 01 Jul 2025 10:00:00 -0000") == 0.0


# Silence


def test_a_stall_ends_and_is_resumed(server, behave, fetch, target, data):
    url = server.put(behave.stall(data, 150_000), behave.whole(data))
    fetch(url, pin(data))
    assert server.ranges() == [None, "bytes=150000-"]
    assert_done(target, data)


def test_a_server_that_only_stalls_is_told(server, behave, fetch, target, data):
    url = server.put(behave.stall(data, 0))
    with pytest.raises(NetworkError, match=r"0\.3 s"):
        fetch(url)
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url)
    assert_done(target, data)


def test_a_server_that_never_answers_is_told(server, fetch, target):
    def mute(handler: Any) -> None:
        handler.server.ended.wait(20)

    with pytest.raises(NetworkError, match=r"0\.3 s"):
        fetch(server.put(mute))
    assert_nothing_bad(target)


def test_a_trickle_is_a_stall(server, behave, fetch, target, data):
    def trickle(handler: Any) -> None:
        handler.head(200, {"Content-Length": len(data), "ETag": '"v1"'})
        for byte in data:
            if handler.server.ended.wait(0.05):
                break
            handler.body(bytes([byte]))

    url = server.put(trickle, behave.whole(data))
    fetch(url, pin(data))
    assert_done(target, data)
    assert len(server.asked) == 2


# Redirects


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(server, behave, fetch, target, data, code):
    url = server.put(behave.redirect("hop?x=1", code), path="/start")
    server.put(behave.redirect(server.url("/file.pth"), code), path="/hop")
    server.put(behave.cut(data, 150_000), behave.whole(data))
    fetch(url, pin(data))
    assert [one.path for one in server.asked] == ["/start", "/hop?x=1", "/file.pth"] * 2
    assert server.ranges()[3:] == ["bytes=150000-"] * 3
    assert_done(target, data)


def test_a_redirect_loop_ends(server, behave, fetch, target, data):
    url = server.put(behave.redirect(server.url()))
    with pytest.raises(NetworkError, match="more than 10 times"):
        fetch(url)
    assert len(server.asked) == 11
    assert_nothing_bad(target)
    server.put(behave.whole(data))
    fetch(url)
    assert_done(target, data)


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://a.org/f", "data:,x", "//[bad/f", "gopher://a.org/"],
)
def test_no_redirect_leads_out_of_the_web(server, behave, fetch, target, data, location):
    with pytest.raises(NetworkError, match="not followed"):
        fetch(server.put(behave.redirect(location)), pin(data))
    assert len(server.asked) == 1
    assert_nothing_bad(target)


def test_a_redirect_to_nowhere_is_told(server, behave, fetch, target):
    with pytest.raises(NetworkError, match="nowhere"):
        fetch(server.put(behave.status(302)))


def test_https_never_becomes_http() -> None:
    for is_pinned in (False, True):
        with pytest.raises(NetworkError, match="not followed"):
            find_next("https://a.org/f", "http://a.org/f", is_pinned=is_pinned)
        with pytest.raises(NetworkError, match="not followed"):
            find_next("https://a.org/f", "http://127.0.0.1/f", is_pinned=is_pinned)
    assert find_next("http://a.org/f", "https://b.org/g", is_pinned=False) == "https://b.org/g"
    assert find_next("https://a.org/x/f", "../g?h=1", is_pinned=False) == "https://a.org/g?h=1"


def test_an_unpinned_file_never_comes_over_http() -> None:
    with pytest.raises(NetworkError, match="can change"):
        find_next("http://localhost/f", "http://a.org/f", is_pinned=False)
    assert find_next("http://localhost/f", "http://a.org/f", is_pinned=True) == "http://a.org/f"


def test_a_location_with_spaces_and_umlauts_is_followed(server, behave, fetch, target, data):
    def elsewhere(handler: Any) -> None:
        handler.head(302, {"Location": "/a b/\u00fcmlaut.pth", "Content-Length": 0})

    url = server.put(elsewhere, path="/start")
    server.put(behave.whole(data), path="/a%20b/%C3%BCmlaut.pth")
    fetch(url)
    assert_done(target, data)


# Connections


def test_a_closed_port_is_told(fetch, target):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(NetworkError, match=r"broke.*refused"):
        fetch(f"http://127.0.0.1:{port}/f")
    assert_nothing_bad(target)


def test_an_unknown_host_is_told_at_once(fetch, target, monkeypatch):
    asked = []

    def resolve(*args: object, **options: object) -> None:
        asked.append(args)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(NetworkError, match="address"):
        fetch("https://weights.example/f")
    assert len(asked) == 1
    assert_nothing_bad(target)


def test_a_resolver_that_is_down_for_a_moment_is_borne(
    server, behave, fetch, target, data, monkeypatch
):
    resolve = socket.getaddrinfo
    asked = []

    def falter(*args: Any, **options: Any) -> Any:
        asked.append(args)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", falter)
    fetch(server.put(behave.whole(data)))
    assert_done(target, data)


@pytest.mark.parametrize("noise", [b"", b"\x16\x03\x01\x00\x00", b"HTTP/9.9 what\r\n\r\n"])
def test_what_is_no_web_server_is_told(fetch, target, noise):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def talk() -> None:
            for _ in range(3):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(noise)

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(DownloadError):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/f")
        if "what" in noise.decode("latin-1"):
            for _ in range(2):  # that one is no passing trouble, so nobody has asked again
                socket.create_connection(listener.getsockname()).close()
        thread.join()
    assert_nothing_bad(target)


def test_a_proxy_from_the_environment_is_used(server, behave, fetch, target, data, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    server.put(behave.whole(data), path="http://weights.example/file.pth")
    fetch("http://weights.example/file.pth", pin(data))
    assert_done(target, data)
    assert server.asked[0].headers["Host"] == "weights.example"


def test_no_proxy_is_heeded(server, behave, fetch, target, data, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(server.put(behave.whole(data)))
    assert_done(target, data)


@pytest.fixture
def secure_server(server: Any, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The hostile server behind TLS with a certificate that nobody knows."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl on PATH to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
            "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Secure(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        ended = server.ended
        behaviour_of = server.behaviour_of

        def handle_error(self, *args: object) -> None:
            pass

    secure = Secure(("127.0.0.1", 0), server.RequestHandlerClass)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    thread = threading.Thread(target=secure.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{secure.server_address[1]}/file.pth", certificate
    secure.shutdown()
    thread.join()
    secure.server_close()


def test_an_unknown_certificate_is_refused_at_once(
    server, behave, secure_server, fetch, target, data, monkeypatch
):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    server.put(behave.whole(data))
    with pytest.raises(NetworkError, match="certificate") as caught:
        fetch(secure_server[0], pin(data))
    assert "SSL_CERT_FILE" in caught.value.help
    assert server.asked == []
    assert_nothing_bad(target)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_from_the_environment_are_trusted(
    server, behave, secure_server, fetch, target, data, monkeypatch, name
):
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(other, raising=False)
    url, certificate = secure_server
    monkeypatch.setenv(name, str(certificate))
    server.put(behave.redirect(server.url()), behave.whole(data))
    with pytest.raises(NetworkError, match="not followed"):
        fetch(url, pin(data))
    fetch(url, pin(data))
    assert_done(target, data)


def test_certificates_that_are_not_there_are_told(fetch, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(NetworkError, match=r"none\.pem"):
        fetch("https://127.0.0.1:9/f")


# Disks


class FullDisk(io.FileIO):
    """A file on a disk that is full after so many bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_told_and_left_no_fuller(server, behave, fetch, target, data, monkeypatch):
    url = server.put(behave.cut(data, 100_000), behave.whole(data))
    plain_open = Path.open

    def narrow(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if path.suffix == ".part" and mode != "rb":
            return FullDisk(path, mode)
        return plain_open(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", narrow)
        with pytest.raises(DiskFullError, match="disk is full") as caught:
            fetch(url, pin(data))
    assert "STEMSPLIT_CACHE" in caught.value.help
    assert list(target.parent.iterdir()) == []
    fetch(url, pin(data))
    assert_done(target, data)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    server, behave, fetch, target, data, monkeypatch
):
    url = server.put(behave.whole(data))
    usage = shutil.disk_usage(target.parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        with pytest.raises(DiskFullError, match=r"0\.1 MB left and 0\.4 MB are needed"):
            fetch(url)
    assert list(target.parent.iterdir()) == []
    fetch(url)
    assert_done(target, data)


def test_a_place_that_cannot_be_written_is_told(server, behave, fetch, target, data):
    target.with_name("file.pth.part").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        fetch(server.put(behave.whole(data)))


def test_an_interrupt_leaves_only_a_part(server, behave, fetch, target, data):
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    url = server.put(behave.whole(data))
    with pytest.raises(KeyboardInterrupt):
        fetch(url, on_progress=interrupt)
    assert_nothing_bad(target)
    fetch(url)
    assert_done(target, data)
