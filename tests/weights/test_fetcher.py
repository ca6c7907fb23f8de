"""Whatever a server does, no bad file comes to the cache, and the next good day mends all."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from weight_files import poison, sha, tar_of, weights_of

from stemsplit.errors import (
    ArchiveError,
    DownloadError,
    HashMismatchError,
    HttpStatusError,
    NetworkError,
    OfflineError,
    StemsplitError,
    TruncatedError,
    WeightsError,
)

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


def test_http_without_a_hash_is_refused(store, make_entry, make_file):
    with pytest.raises(NetworkError, match="goes over http"):
        store.fetch(make_entry(make_file("http://weights.example/f")))


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
