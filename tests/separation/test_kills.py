from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from linear_model import GAINS, hash_tree, separate_song, write_song

from stemsplit.errors import (
    OutputError,
)
from stemsplit.separation.events import Event, Progress
from stemsplit.separation.files import Job
from stemsplit.separation.separator import Separator
from stemsplit.separation.staging import staging_folder


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
@pytest.mark.parametrize(("clip", "is_rerun"), [("none", False), ("rescale", True)])
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
    tests = str(Path(__file__).parent.parent)
    code = CHILD.format(tests=tests, gains=GAINS)
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
    (folder / "00").mkdir(parents=True)
    os.rename(job.outputs["vocals"], folder / "00" / "vocals.wav")
    os.rename(job.manifest, folder / "manifest.json")
    monkeypatch.setattr(Separator, "stream", lambda *rest: pytest.fail("separated again"))
    assert separate_song().status == "skipped"
    assert separate_song().manifest == result.manifest
    assert not folder.exists()


def test_renames_that_fail_are_tried_again_by_the_next_run(monkeypatch: pytest.MonkeyPatch):
    """As on Windows, where a file that a player has open cannot be replaced."""
    write_song(Path("song.wav"))
    real = os.replace

    def refuse(source: Any, target: Any) -> None:
        if str(target).endswith("song/accompaniment.wav"):
            raise PermissionError(errno.EACCES, "is in use", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="is in use"):
        separate_song()
    monkeypatch.setattr(os, "replace", real)
    monkeypatch.setattr(Separator, "stream", lambda *rest: pytest.fail("separated again"))
    assert separate_song().status == "skipped"
    assert len(hash_tree("stems")) == 3


def test_outputs_that_are_decided_but_not_yet_listed_are_no_songs():
    write_song(Path("in/song.wav"))
    result = separate_song("in", out_dir=Path("in/out"))
    folder = staging_folder(result.job)
    folder.mkdir()
    os.rename(result.job.manifest, folder / "manifest.json")
    assert separate_song("in", out_dir=Path("in/out")).status == "skipped"
