from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from stemsplit.audio import spool_stream
from stemsplit.errors import DecodeError, DiskFullError, EmptyAudioError, OutputError


class Trickle(io.RawIOBase):
    """Hands out a few bytes at a time and remembers the largest request."""

    def __init__(self, data: bytes, step: int) -> None:
        self._rest = io.BytesIO(data)
        self._step = step
        self.largest = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.largest = max(self.largest, size)
        assert size > 0
        return self._rest.read(min(size, self._step))


def test_all_bytes_arrive(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    stream = Trickle(data, 777_777)
    path = spool_stream(stream, tmp_path / "new" / "folder")  # type: ignore[arg-type]
    assert path.parent == tmp_path / "new" / "folder"
    assert path.read_bytes() == data
    assert stream.largest <= 1 << 20


def test_two_spools_do_not_meet(tmp_path: Path) -> None:
    first, second = (spool_stream(io.BytesIO(data), tmp_path) for data in (b"a", b"b"))
    assert (first.read_bytes(), second.read_bytes()) == (b"a", b"b")


def test_nothing_is_empty_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EmptyAudioError, match="standard input"):
        spool_stream(io.BytesIO(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EIO, OutputError)],
)
def test_a_disk_that_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[OutputError]
) -> None:
    class Refusing(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fdopen", lambda handle, mode: (os.close(handle), Refusing())[1])
    with pytest.raises(kind) as caught:
        spool_stream(io.BytesIO(b"data"), tmp_path)
    assert type(caught.value) is kind
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DecodeError, match="standard input could not be read"):
        spool_stream(Broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        spool_stream(io.BytesIO(b"data"), tmp_path / "file")
