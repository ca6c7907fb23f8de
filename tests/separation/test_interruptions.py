from __future__ import annotations

import errno
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_model import GAINS, LinearModel, hash_tree, separate_song, write_song

from stemsplit.errors import (
    CancelledError,
    DecodeError,
    DiskFullError,
    EncodeError,
    OutputError,
)
from stemsplit.separation import files
from stemsplit.separation.events import Event, Progress
from stemsplit.separation.files import FileOptions, Job, plan_jobs, separate_file
from stemsplit.separation.separator import Separator
from stemsplit.separation.staging import staging_folder


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


def test_a_place_that_is_a_file_is_said_so():
    write_song(Path("song.wav"))
    Path("stems").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        separate_song()
    assert Path("stems").read_text() == "mine"


def test_a_disk_that_fills_up_in_the_middle(in_tmp: Path):
    """A limit on the size of files stands in for the disk: the spool of `rescale` runs into it."""
    write_song(Path("song.wav"), 20.0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(DiskFullError, match="no space"):
            separate_song(clip="rescale")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not Path("stems").exists()


def test_two_at_once_do_not_mix(in_tmp: Path):
    write_song(Path("song.wav"))
    answers: list[str] = []

    def second(event: Event) -> None:
        if isinstance(event, Progress) and not answers:
            with pytest.raises(OutputError, match="another process") as caught:
                separate_song()
            answers.append(caught.value.message)

    assert separate_song(on_event=second).status == "done"
    assert len(answers) == 1
    assert separate_song().status == "skipped"


class Killed(BaseException):
    """Stands for SIGKILL: from here on nothing changes on disk."""


class Kill:
    """Lets the k-th change of the file system, and every later one, fail."""

    at: int | None = None
    count = 0
    verbs = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"})

    @classmethod
    def hook(cls, event: str, args: tuple[Any, ...]) -> None:
        if cls.at is None:
            return
        is_write = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if event in cls.verbs or is_write:
            cls.count += 1
            if cls.count >= cls.at:
                raise Killed


@pytest.fixture
def kill() -> Iterator[type[Kill]]:
    if not getattr(Kill, "is_hooked", False):
        sys.addaudithook(Kill.hook)
        Kill.is_hooked = True  # type: ignore[attr-defined]  # an audit hook cannot be taken back
    yield Kill
    Kill.at = None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("clip", ["none", "rescale"])
@pytest.mark.parametrize("is_rerun", [False, True])
def test_killed_anywhere_the_next_run_completes_it(kill: type[Kill], clip: str, is_rerun: bool):
    """As SIGKILL would: every change of the file system in turn is the first that fails."""
    write_song(Path("song.wav"), 0.5, peak=2.0)
    expected = list(
        hash_tree(separate_song(clip=clip, out_dir=Path("calm")).job.manifest.parent).values()
    )
    for at in range(1, 200):
        out = Path(f"out{at}")
        if is_rerun:
            separate_song(clip="clamp", out_dir=out)
        old = hash_tree(out)
        Kill.at, Kill.count = at, 0
        try:
            separate_song(clip=clip, out_dir=out)
        except Killed:
            pass
        else:
            break
        finally:
            Kill.at = None
            gc.collect()
        left = {name: sha for name, sha in hash_tree(out).items() if ".part/" not in name}
        assert set(left.values()) <= {*expected, *old.values()}, "something is half written"
        assert separate_song(clip=clip, out_dir=out).status in ("done", "skipped")
        assert list(hash_tree(out).values()) == expected
        assert not list(out.rglob("*.part*"))
    assert at > 10


CHILD = """
import sys
sys.path.insert(0, {tests!r})
{prelude}
import torch
torch.set_num_threads(1)
from pathlib import Path
from linear_model import LinearModel
from stemsplit.separation.files import FileOptions, plan_jobs, separate_file
from stemsplit.separation.separator import Separator
separator = Separator(LinearModel({gains!r}, pause_s=0.1))
options = FileOptions()
(job,) = plan_jobs(["song.wav"], stems=separator.stems, model="linear", options=options)
try:
    separate_file(separator, job, options, lambda event: print(type(event).__name__, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_real_signal(number: signal.Signals):
    write_song(Path("song.wav"), 30.0)
    prelude = "import standin_audio" if "standin_audio" in sys.modules else ""
    tests = str(Path(__file__).parent.parent)
    code = CHILD.format(tests=tests, prelude=prelude, gains=GAINS)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("Progress"):
                child.send_signal(number)
                break
        child.stdout.read()
    if number == signal.SIGINT:
        assert child.returncode == 130
        assert not Path("stems").exists()
    else:
        assert child.returncode == -signal.SIGKILL
        assert [path.name for path in Path("stems/song").iterdir()] == ["stemsplit.json.part"]
    assert separate_song().status == "done"
    assert sorted(path.name for path in Path("stems/song").iterdir()) == [
        "accompaniment.wav",
        "stemsplit.json",
        "vocals.wav",
    ]


def test_a_decision_is_carried_out_by_the_next_run_without_the_network(
    monkeypatch: pytest.MonkeyPatch,
):
    """What dies between the renames has all its outputs in the staging folder already."""
    write_song(Path("song.wav"))
    result = separate_song()
    job: Job = result.job
    folder = staging_folder(job)
    folder.mkdir()
    os.rename(job.outputs["vocals"], folder / "00.wav")
    os.rename(job.manifest, folder / "manifest.json")
    monkeypatch.setattr(Separator, "stream", lambda *rest: pytest.fail("separated again"))
    assert separate_song().status == "skipped"
    assert separate_song().manifest == result.manifest
    assert not folder.exists()


def test_a_manifest_is_plain_json():
    write_song(Path("song.wav"))
    result = separate_song()
    data = json.loads(result.job.manifest.read_text("utf-8"))
    assert data["recipe"]["model"] == "linear"
    assert data["recipe"]["weights_sha256"] == "linear"
    assert data["recipe"]["options"]["shifts"] == 0
    assert data["source"]["name"] == "song.wav"
    assert set(data["versions"]) == {"stemsplit", "torch", "ffmpeg"}
