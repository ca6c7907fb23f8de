from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from stemsplit.audio import StemWriter, parse_format
from stemsplit.audio.part_file import PartFile, explain_os_error, name_part
from stemsplit.errors import DiskFullError, OutputError


def test_a_committed_file_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    place = PartFile(path)
    assert place.part == tmp_path / "a.wav.part"
    place.part.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    place.commit()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_left_over_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"left over")
    place = PartFile(tmp_path / "a")
    assert place.part.read_bytes() == b""
    place.discard()
    place.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "🎵" * 63, "a" * 251, "a" * 250])
def test_part_names_fit(tmp_path: Path, name: str) -> None:
    part = name_part(tmp_path / name)
    assert len(os.fsencode(part.name)) <= 255
    assert part.name.endswith(".part")
    assert part.parent == tmp_path
    part.name.encode()
    place = PartFile(tmp_path / name)
    place.commit()
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_long_names_that_end_differently_have_different_parts(tmp_path: Path) -> None:
    assert name_part(tmp_path / ("a" * 254 + "b")) != name_part(tmp_path / ("a" * 254 + "c"))


def refuse(path: Path) -> OutputError:
    with pytest.raises(OutputError) as caught:
        StemWriter(path, sample_rate=44100, channels=1, format=parse_format("wav"))
    assert repr(str(path)) in caught.value.message
    assert caught.value.help.endswith(".")
    return caught.value


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    assert "is a folder" in refuse(tmp_path / "a.wav").message
    assert list(tmp_path.iterdir()) == [tmp_path / "a.wav"]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    for name in ("x/a.wav", "x/y/a.wav"):
        assert (
            f"{str(tmp_path / 'x')!r} is a file, and no folder" in refuse(tmp_path / name).message
        )


def test_names_that_cannot_be(tmp_path: Path) -> None:
    assert "shorter" in refuse(tmp_path / ("a" * 256)).help
    assert "null" in refuse(tmp_path / "a\0b").message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o500)
    assert "may write" in refuse(tmp_path / "x" / "a.wav").help


@pytest.mark.parametrize(
    ("code", "kind", "help"),
    [
        (errno.ENOSPC, DiskFullError, "free some space"),
        (errno.EDQUOT, DiskFullError, "free some space"),
        (errno.EACCES, OutputError, "may write"),
        (errno.EROFS, OutputError, "read-only"),
        (errno.EFBIG, OutputError, "another disk"),
        (errno.EIO, OutputError, "check the folder"),
    ],
)
def test_every_reason_has_its_words(code: int, kind: type[OutputError], help: str) -> None:
    error = explain_os_error(OSError(code, os.strerror(code)), Path("out/a.wav"))
    assert type(error) is kind
    assert "'out/a.wav'" in error.message
    assert help in error.help


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fills_up_while_wav_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "a.wav"
    writer = StemWriter(path, sample_rate=44100, channels=1, format=parse_format("wav"))
    writer.write(np.zeros((1, 1000), np.float32))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError) as caught:
        writer.close()
    assert isinstance(caught.value, DiskFullError) == (code == errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_disk_that_is_full_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.wav.part").symlink_to("/dev/full")
    with pytest.raises(DiskFullError):  # noqa: SIM117
        with StemWriter(
            tmp_path / "a.wav", sample_rate=44100, channels=1, format=parse_format("wav")
        ) as writer:
            writer.write(np.zeros((1, 1000), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path) -> None:
    place = PartFile(tmp_path / "a.wav")
    (tmp_path / "a.wav").mkdir()  # put there by somebody else in the meantime
    with pytest.raises(OutputError, match="cannot be written"):
        place.commit()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.wav"]
