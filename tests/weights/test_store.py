"""The cache itself: whatever happens to it, it gives no bad file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from weight_files import poison, sha, weights_of

import stemsplit.weights.disk as disk
from stemsplit.errors import DiskFullError, HttpStatusError, OutputError, UsageError
from stemsplit.weights.environment import find_cache, is_offline
from stemsplit.weights.store import Store


def test_nothing_is_created_before_it_is_needed(root, store, make_entry, make_file):
    entry = make_entry(make_file("https://a.org/f"))
    assert not store.is_cached(entry)
    assert [one.ok for one in store.verify(entry)] == [False]
    assert store.remove(entry) == store.size(entry) == 0
    assert not root.exists()


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


# What happens to files in the cache


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
