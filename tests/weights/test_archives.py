"""One member out of an archive: only that, only there, and never more than is sensible."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stemsplit.errors import ArchiveError, DiskFullError
from stemsplit.weights.archives import extract_member

CONTENT = bytes(range(256)) * 400
MODES = ["w", "w:gz", "w:bz2", "w:xz"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    return folder / "taken"


@pytest.fixture
def extract(archive: Path, target: Path) -> Callable[..., str]:
    return lambda member="model/w.h5": extract_member(archive, member, target)


def write_tar(path: Path, *members: tuple[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # all of MODES are fine
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_zip(path: Path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)


def assert_untouched(tmp_path: Path) -> None:
    """Nothing but the archive is there."""
    assert [path.name for path in tmp_path.rglob("*") if not path.is_dir()] == ["archive"]


@pytest.mark.parametrize("lead", ["", "./"])
@pytest.mark.parametrize("mode", [*MODES, "zip"])
def test_a_member_comes_out_with_its_hash(archive, target, extract, mode, lead):
    members = ((f"{lead}other", b"x"), (f"{lead}model/w.h5", CONTENT), (f"{lead}model/z", b"y"))
    if mode == "zip":
        write_zip(archive, *members)
    else:
        write_tar(archive, *members, mode=mode)
    assert extract() == hashlib.sha256(CONTENT).hexdigest()
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["taken"]


def test_a_bare_name_is_found_in_any_folder_of_a_zip(archive, target, extract):
    others = (("top/", b""), ("top/xw.h5", b"x"), ("__MACOSX/top/._w.h5", b"y"))
    write_zip(archive, *others, ("top/in/w.h5", CONTENT))
    extract("w.h5")
    assert target.read_bytes() == CONTENT
    # At the top it is meant, whatever lies below.
    write_zip(archive, ("top/w.h5", b"x"), ("w.h5", b"z"))
    extract("w.h5")
    assert target.read_bytes() == b"z"


def test_a_bare_name_in_two_folders_is_refused(tmp_path, archive, extract):
    write_zip(archive, ("one/w.h5", b"x"), ("two/w.h5", b"y"))
    with pytest.raises(ArchiveError, match=r"holds 'w\.h5' twice"):
        extract("w.h5")
    assert_untouched(tmp_path)


def test_an_empty_member_is_a_file(archive, target, extract):
    write_zip(archive, ("model/w.h5", b""))
    extract()
    assert target.read_bytes() == b""


def test_a_tar_that_holds_a_zip_is_a_tar(archive, target, extract):
    """As PyTorch's files are zips: their end can look like the end of the archive."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("archive/data.pkl", b"x")
    write_tar(archive, ("model/w.h5", inner.getvalue()))
    extract()
    assert target.read_bytes() == inner.getvalue()


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize(
    "evil",
    ["../evil", "../../evil", "/tmp/evil", "model/../../evil", "./../evil", "C:/evil", "..\\evil"],
)
def test_an_archive_that_leaves_its_folder_is_refused(
    tmp_path, archive, extract, target, write, evil
):
    for members in (
        ((evil, b"evil"), ("model/w.h5", CONTENT)),
        (("model/w.h5", CONTENT), (evil, b"evil")),
    ):
        write(archive, *members)
        with pytest.raises(ArchiveError, match="leaves its folder"):
            extract()
        assert_untouched(tmp_path)


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_missing_member_is_told(tmp_path, archive, extract, write):
    write(archive, ("model/w.h5x", CONTENT), ("w.h5", CONTENT))
    with pytest.raises(ArchiveError, match=r"no member 'model/w\.h5'"):
        extract()
    assert_untouched(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_member_that_is_there_twice_is_refused(tmp_path, archive, extract, write):
    write(archive, ("model/w.h5", CONTENT), ("./model/w.h5", b"other"))
    with pytest.raises(ArchiveError, match="twice"):
        extract()
    assert_untouched(tmp_path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_device_in_a_tar_is_refused(tmp_path, archive, extract, kind):
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("model/w.h5")
        info.type = kind
        info.linkname = "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ArchiveError, match="no plain file"):
        extract()
    assert_untouched(tmp_path)


def test_a_link_beside_the_member_is_not_made(archive, extract, target):
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("model")
        info.type = tarfile.SYMTYPE
        info.linkname = "/tmp"
        tar.addfile(info)
        info = tarfile.TarInfo("model/w.h5")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    extract()
    assert target.read_bytes() == b"abc"
    assert [path.name for path in target.parent.iterdir()] == ["taken"]


def test_a_symlink_in_a_zip_is_refused(tmp_path, archive, extract):
    with zipfile.ZipFile(archive, "w") as file:
        info = zipfile.ZipInfo("model/w.h5")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="no plain file"):
        extract()
    assert_untouched(tmp_path)


def test_a_folder_is_no_file(tmp_path, archive, extract):
    with zipfile.ZipFile(archive, "w") as file:
        file.mkdir("model/") if hasattr(file, "mkdir") else file.writestr("model/", b"")
    with pytest.raises(ArchiveError, match="no member 'model'"):
        extract("model")
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("model")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    with pytest.raises(ArchiveError, match="no member 'model'"):
        extract("model")
    assert_untouched(tmp_path)


def test_an_encrypted_member_is_refused(tmp_path, archive, extract):
    write_zip(archive, ("model/w.h5", CONTENT))
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flag in the local header ...
    data[data.index(b"PK\x01\x02") + 8] |= 1  # ... and in the directory
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"cannot be unpacked.*password"):
        extract()
    assert_untouched(tmp_path)


@pytest.mark.parametrize("mode", [*MODES, "zip"])
def test_a_bomb_does_not_go_off(tmp_path, archive, extract, mode):
    zeros = bytes(48 << 20)
    if mode == "zip":
        write_zip(archive, ("model/w.h5", zeros))
    else:
        write_tar(archive, ("model/w.h5", zeros), mode=mode)
    if mode == "w":  # not packed at all: it is as long as it looks
        extract()
        return
    with pytest.raises(ArchiveError, match="bomb"):
        extract()
    assert_untouched(tmp_path)


def test_a_bomb_beside_the_member_does_not_go_off(tmp_path, archive, extract):
    write_tar(archive, ("zeros", bytes(48 << 20)), ("model/w.h5", b"x"), mode="w:gz")
    with pytest.raises(ArchiveError, match="bomb"):
        extract()
    assert_untouched(tmp_path)


def test_a_bomb_in_a_header_does_not_go_off(tmp_path, archive, extract):
    """A tar's extended header is read into memory at the length that it claims."""
    info = tarfile.TarInfo("model/w.h5")
    info.type = tarfile.XHDTYPE
    info.size = 1 << 40
    with gzip.open(archive, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(40):
            file.write(bytes(1 << 20))
    with pytest.raises(ArchiveError):
        extract()
    assert_untouched(tmp_path)


def test_a_size_that_lies_is_noticed(tmp_path, archive, extract):
    write_zip(archive, ("model/w.h5", CONTENT))
    data = bytearray(archive.read_bytes())
    where = data.index(b"PK\x01\x02") + 24
    data[where : where + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"cannot be unpacked.*CRC"):
        extract()
    assert_untouched(tmp_path)


@pytest.mark.parametrize("mode", [*MODES, "zip"])
def test_a_truncated_archive_is_told(tmp_path, archive, extract, mode):
    noise = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256)) * 8
    if mode == "zip":
        write_zip(archive, ("model/w.h5", noise))
    else:
        write_tar(archive, ("model/w.h5", noise), mode=mode)
    data = archive.read_bytes()
    for length in (0, 1, 5, 100, len(data) // 3):
        archive.write_bytes(data[:length])
        with pytest.raises(ArchiveError):
            extract()
        assert_untouched(tmp_path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "zip"])
def test_flipped_bits_are_told_or_harmless(tmp_path, archive, extract, target, mode):
    noise = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))
    if mode == "zip":
        write_zip(archive, ("model/w.h5", noise))
    else:
        write_tar(archive, ("model/w.h5", noise), mode=mode)
    data = archive.read_bytes()
    for where in range(0, len(data), max(len(data) // 60, 1)):
        flipped = bytearray(data)
        flipped[where] ^= 0x10
        archive.write_bytes(flipped)
        try:
            extract()
        except ArchiveError:
            assert_untouched(tmp_path)
        else:
            target.unlink()


@pytest.mark.parametrize("junk", [b"", b"not an archive at all", b"PK\x03\x04", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_told(tmp_path, archive, extract, junk):
    archive.write_bytes(junk)
    with pytest.raises(ArchiveError) as caught:
        extract()
    assert str(archive) in caught.value.message
    assert_untouched(tmp_path)


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_disk_that_is_too_small_is_told_first(
    tmp_path, archive, extract, target, write, monkeypatch
):
    write(archive, ("model/w.h5", CONTENT))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFullError):
        extract()
    assert_untouched(tmp_path)
