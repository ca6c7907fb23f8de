"""A destination that fails ends a batch; a song that fails does not."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from stemsplit.batch import destination
from stemsplit.batch.catalogue import Song
from stemsplit.batch.destination import stop_with_destination
from stemsplit.batch.job import Ending
from stemsplit.errors import (
    DecodeError,
    DiskFullError,
    InUseError,
    OutputError,
    StemsplitError,
    StorageError,
)


class Engine:
    """Ends songs with the errors that it is given, as long as nobody stops it."""

    def __init__(self, *errors: StemsplitError | None, folder: str = "/in") -> None:
        self.cancelled = threading.Event()
        self.is_closed = False
        self._songs = [
            (Song(f"{folder}/{number}.wav", str(number)), error)
            for number, error in enumerate(errors)
        ]

    def run(self) -> Generator[Ending]:
        try:
            for song, error in self._songs:
                if self.cancelled.is_set():
                    yield Ending(song, "cancelled")
                else:
                    yield Ending(song, "failed" if error else "done", error)
        finally:
            self.is_closed = True


def listen(engine: Engine, dest: Path) -> tuple[list[str], OutputError | None]:
    statuses = []
    try:
        for ending in stop_with_destination(engine.run(), str(dest), engine.cancelled):
            statuses.append(ending.status)
    except OutputError as error:
        return statuses, error
    finally:
        assert engine.is_closed
    return statuses, None


FULL = DiskFullError("no space is left for 'x'", help="free some.")
REFUSED = OutputError("'x' cannot be written", help="look.")


def test_a_full_disk_ends_it_when_what_is_under_way_has_ended(tmp_path: Path):
    statuses, error = listen(Engine(None, FULL, None, FULL), tmp_path)
    assert statuses == ["done", "failed", "cancelled", "cancelled"]
    assert type(error) is DiskFullError
    assert error.message == "the batch was stopped: no space is left for 'x'"
    assert error.help == "free some."


def test_a_place_that_cannot_be_one_ends_it(tmp_path: Path):
    (tmp_path / "file").touch()
    statuses, error = listen(Engine(REFUSED, None), tmp_path / "file" / "below")
    assert statuses == ["failed", "cancelled"]
    assert error is not None
    assert "'x' cannot be written" in error.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_ends_it(tmp_path: Path):
    (tmp_path / "out").mkdir(mode=0o500)
    assert listen(Engine(REFUSED, None), tmp_path / "out")[0] == ["failed", "cancelled"]


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,  # of that song alone: the trial goes well
        InUseError("another process is writing 'x'", help="wait."),
        DecodeError("no music", help="look."),
    ],
)
def test_what_is_wrong_with_a_song_stops_nothing(tmp_path: Path, error: StemsplitError):
    statuses, fault = listen(Engine(error, None, error, None), tmp_path / "out")
    assert statuses == ["failed", "done"] * 2
    assert fault is None
    assert not list(tmp_path.rglob("*.*"))


def test_storage_that_does_not_answer_the_trial_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(dest: str) -> None:
        raise StorageError(f"{dest!r} cannot be written: timeout", help="try again.")

    monkeypatch.setattr(destination, "try_destination", fail)
    statuses, fault = listen(Engine(REFUSED, None), tmp_path)
    assert statuses == ["failed", "done"]
    assert fault is None


def test_a_machines_full_temporary_folder_is_not_the_destination(tmp_path: Path):
    statuses, fault = listen(Engine(FULL, None, folder="s3://in"), tmp_path)
    assert statuses == ["failed", "done"]
    assert fault is None
