"""Weights from the hub: what comes is checked, and what is refused or breaks is told."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from weight_files import sha, weights_of

from stemsplit.errors import DiskFullError, HashMismatchError, HttpStatusError, NetworkError


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
