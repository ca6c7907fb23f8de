from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from linear_model import Gains, LinearModel, hash_tree, separate_song, write_song

from stemsplit.audio import parse_format
from stemsplit.errors import (
    CancelledError,
    DecodeError,
    DiskFullError,
    EncodeError,
    OutputError,
)
from stemsplit.separation import files, stem_files
from stemsplit.separation.events import Event, Progress
from stemsplit.separation.files import FileOptions, plan_jobs, separate_file
from stemsplit.separation.separator import Separator
from stemsplit.separation.staging import Workplace


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Stop(Exception):
    pass


def raise_at(number: int, error: BaseException) -> Callable[[Event], None]:
    seen: list[Event] = []

    def listen(event: Event) -> None:
        seen.append(event)
        if len(seen) == number:
            raise error

    return listen


@pytest.mark.parametrize("clip", ["none", "rescale"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("error", [Stop("x"), KeyboardInterrupt()])
def test_whatever_ends_it_early_leaves_nothing(clip: str, number: int, error: BaseException):
    write_song(Path("song.wav"))
    threads = threading.active_count()
    with pytest.raises(type(error)):
        separate_song(on_event=raise_at(number, error), clip=clip)
    assert not Path("stems").exists()
    assert threading.active_count() == threads
    assert separate_song(clip=clip).status == "done"


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("error", [Stop("x"), KeyboardInterrupt()])
def test_nor_do_chunks_that_are_under_way_beside(number: int, error: BaseException):
    write_song(Path("song.wav"), 8.0)
    before = set(threading.enumerate())
    with pytest.raises(type(error)):
        separate_song(on_event=raise_at(number, error))
    assert not Path("stems").exists()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_a_network_that_fails_in_its_own_thread_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    write_song(Path("song.wav"), 8.0)
    whole = Gains.forward
    ran: list[int] = []

    def fail_at_the_third(self: Gains, mixture: torch.Tensor) -> torch.Tensor:
        ran.append(threading.get_ident())
        if len(ran) == 3:
            raise TimeoutError("the third chunk")
        return whole(self, mixture)

    monkeypatch.setattr(Gains, "forward", fail_at_the_third)
    with pytest.raises(TimeoutError, match="the third chunk"):
        separate_song()
    assert threading.get_ident() not in ran
    assert not Path("stems").exists()
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("format", ["flac", "mp3", "ogg", "opus", "m4a"])
def test_nor_does_an_encoder_stay_behind(format: str):
    write_song(Path("song.wav"), 5.0)
    threads = threading.active_count()
    with pytest.raises(Stop):
        separate_song(on_event=raise_at(4, Stop("x")), format=parse_format(format))
    assert not Path("stems").exists()
    assert threading.active_count() == threads


@pytest.mark.parametrize("error", [Stop("x"), KeyboardInterrupt()])
def test_an_early_end_leaves_older_outputs_as_they_were(error: BaseException):
    write_song(Path("song.wav"))
    separate_song()
    before = hash_tree("stems")
    with pytest.raises(type(error)):
        separate_song(on_event=raise_at(3, error), overwrite=True)
    assert hash_tree("stems") == before
    assert separate_song().status == "skipped"


def test_cancelling_stops_before_the_next_event():
    write_song(Path("song.wav"))
    cancelled = threading.Event()
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        cancelled.set()

    with pytest.raises(CancelledError):
        separate_song(on_event=listen, cancelled=cancelled)
    assert len(events) == 1
    assert not Path("stems").exists()
    with pytest.raises(CancelledError):
        separate_song(cancelled=cancelled)


def test_a_song_that_is_none_leaves_no_folder():
    Path("song.wav").write_bytes(b"not audio" * 100)
    with pytest.raises(DecodeError):
        separate_song()
    assert not Path("stems").exists()
    Path("stems").mkdir()
    with pytest.raises(DecodeError):
        separate_song()
    assert list(Path("stems").iterdir()) == []


def test_a_song_that_vanishes_is_a_decode_error():
    write_song(Path("song.wav"))
    options = FileOptions()
    separator = Separator(LinearModel())
    (job,) = plan_jobs(["song.wav"], stems=separator.stems, model="x", options=options)
    Path("song.wav").unlink()
    with pytest.raises(DecodeError, match="cannot be read"):
        separate_file(separator, job, options, lambda e: None)


def test_a_song_that_changes_meanwhile_is_not_trusted():
    write_song(Path("song.wav"))

    def change(event: Event) -> None:
        if isinstance(event, Progress):
            os.utime("song.wav", (1, 1))

    with pytest.raises(DecodeError, match="changed while"):
        separate_song(on_event=change)
    assert not Path("stems").exists()


class BrokenWriter(files.StemWriter):
    """Fails at its third block, as a full disk or a dying encoder would."""

    error: BaseException
    failing: str
    _blocks = 0

    def write(self, block: np.ndarray) -> None:
        self._blocks += 1
        if self.failing == "write" and self._blocks == 3:
            raise self.error
        super().write(block)

    def close(self) -> None:
        if self.failing == "close":
            raise self.error
        super().close()


@pytest.mark.parametrize("failing", ["write", "close"])
@pytest.mark.parametrize(
    "error", [DiskFullError("full", help="free"), EncodeError("no", help="x"), Stop("odd")]
)
@pytest.mark.parametrize("clip", ["none", "rescale"])
def test_a_failing_writer_comes_out_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, failing: str, error: Exception, clip: str
):
    write_song(Path("song.wav"), 8.0)
    monkeypatch.setattr(BrokenWriter, "error", error, raising=False)
    monkeypatch.setattr(BrokenWriter, "failing", failing, raising=False)
    monkeypatch.setattr(files, "StemWriter", BrokenWriter)
    threads = threading.active_count()
    with pytest.raises(type(error)):
        separate_song(clip=clip)
    assert not Path("stems").exists()
    assert threading.active_count() == threads


def test_a_failing_writer_is_heard_of_before_the_song_is_over(monkeypatch: pytest.MonkeyPatch):
    write_song(Path("song.wav"), 20.0)
    monkeypatch.setattr(BrokenWriter, "error", EncodeError("no", help="x"), raising=False)
    monkeypatch.setattr(BrokenWriter, "failing", "write", raising=False)
    monkeypatch.setattr(files, "StemWriter", BrokenWriter)
    events: list[Event] = []
    with pytest.raises(EncodeError):
        separate_song(on_event=events.append)
    assert sum(isinstance(event, Progress) for event in events) < 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_so():
    write_song(Path("song.wav"))
    Path("stems").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        separate_song()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, OutputError),
        (errno.EROFS, OutputError),
        (errno.ENAMETOOLONG, OutputError),
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
    ],
)
def test_a_place_that_cannot_be_made_is_said_so(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[OutputError]
):
    write_song(Path("song.wav"))

    def refuse(*args: object, **rest: object) -> None:
        raise OSError(number, os.strerror(number), "stems")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(kind, match=os.strerror(number)):
        separate_song()
    assert not Path("stems").exists()


def test_a_folder_that_another_song_takes_away_is_made_again(monkeypatch: pytest.MonkeyPatch):
    write_song(Path("song.wav"))
    real, taken = Path.mkdir, []

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if parents and not taken:
            # A song that came to nothing removes the parent just before its child is made.
            taken.append(self)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        real(self, mode, parents, exist_ok)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert separate_song().status == "done"
    assert taken


def test_a_place_that_is_a_file_is_said_so():
    write_song(Path("song.wav"))
    Path("stems").write_text("mine")
    with pytest.raises(OutputError, match="'stems' is a file, and no folder"):
        separate_song()
    assert Path("stems").read_text() == "mine"


def test_a_disk_that_takes_no_more_in_the_middle(in_tmp: Path):
    """A limit on the size of files stands in for it: the spool of `rescale` runs into it."""
    write_song(Path("song.wav"), 20.0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            separate_song(clip="rescale")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not Path("stems").exists()


def test_when_one_file_cannot_be_finished_the_others_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
):
    write_song(Path("song.wav"), 3.0, peak=2.0)
    monkeypatch.setattr(stem_files, "SPOOL_BLOCK_SAMPLES", 64)
    written: list[int] = []

    class Uneven(files.StemWriter):
        def __init__(self, path: Path, **rest: Any) -> None:
            super().__init__(path, **rest)
            self.title = rest["tags"]["title"]

        def write(self, block: np.ndarray) -> None:
            if "vocals" in self.title:
                raise EncodeError("no", help="x")
            written.append(1)
            time.sleep(0.001)

    monkeypatch.setattr(files, "StemWriter", Uneven)
    with pytest.raises(EncodeError):
        separate_song(clip="rescale")
    assert len(written) < 3 * 44100 // 64 // 2
    assert not Path("stems").exists()


def test_a_folder_that_another_takes_away_is_made_again(monkeypatch: pytest.MonkeyPatch):
    folder = Path("song/stemsplit.json.part").absolute()
    acquire, taken = filelock.FileLock.acquire, []

    def vanish(self: filelock.FileLock, *arguments: Any, **rest: Any) -> Any:
        if not taken:
            taken.append(True)
            shutil.rmtree(folder.parent)
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", self.lock_file)
        return acquire(self, *arguments, **rest)

    monkeypatch.setattr(filelock.FileLock, "acquire", vanish)
    with Workplace(folder, folder.parent):
        assert folder.is_dir()
    assert not folder.parent.exists()
