from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from linear_model import LinearModel, hash_tree, write_song

from stemsplit.batch import crash_report
from stemsplit.batch.local import Outcome, run_batch
from stemsplit.errors import DecodeError, DeviceError, StemsplitError, UsageError
from stemsplit.separation.events import Event, Finished, Progress, Started
from stemsplit.separation.files import FileOptions, Job, plan_jobs
from stemsplit.separation.separator import Separator

BOTH = pytest.mark.parametrize("workers", [1, 3])
OPTIONS = FileOptions()


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_log_path", lambda *a, **k: tmp_path / "logs")
    return tmp_path


def write_songs(count: int = 4, seconds: float = 1.0) -> None:
    for number in range(count):
        write_song(Path(f"in/{number}.wav"), seconds, seed=number)


def plan(*inputs: str) -> list[Job]:
    stems = ("vocals", "accompaniment")
    return plan_jobs(inputs or ["in"], stems=stems, model="linear", options=OPTIONS)


def run(jobs: Sequence[Job], workers: int = 1, **rest: Any) -> list[Outcome]:
    rest = {"on_event": lambda job, event: None, **rest}
    return run_batch(lambda: Separator(LinearModel()), jobs, OPTIONS, workers=workers, **rest)


def statuses(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


@BOTH
def test_all_songs_are_done_in_order_and_skipped_the_next_time(workers: int):
    write_songs()
    jobs = plan()
    outcomes = run(jobs, workers)
    assert statuses(outcomes) == ["done"] * 4
    assert [outcome.job for outcome in outcomes] == jobs
    assert all(outcome.audio_s == 1.0 and outcome.elapsed_s > 0 for outcome in outcomes)
    assert statuses(run(jobs, workers)) == ["skipped"] * 4


def test_the_number_of_workers_changes_no_bit():
    write_songs()
    run(plan())
    one = hash_tree("stems")
    Path("stems").rename("first")
    run(plan(), 3)
    assert hash_tree("stems") == one


@BOTH
def test_the_model_is_made_once_and_not_for_nothing(workers: int):
    write_songs()
    made: list[int] = []

    def make() -> Separator:
        made.append(1)
        return Separator(LinearModel())

    rest = {"workers": workers, "on_event": lambda job, event: None}
    assert run_batch(make, [], OPTIONS, **rest) == []
    assert made == []
    run_batch(make, plan(), OPTIONS, **rest)
    assert made == [1]


@BOTH
def test_a_song_that_fails_stops_no_other(workers: int):
    write_songs()
    Path("in/1.wav").write_bytes(b"RIFF but not really" * 50)
    outcomes = run(plan(), workers)
    assert statuses(outcomes) == ["done", "failed", "done", "done"]
    assert isinstance(outcomes[1].error, DecodeError)
    assert sorted(path.name for path in Path("stems").iterdir()) == ["0", "2", "3"]


@BOTH
def test_what_nobody_expected_is_contained_and_reported(
    workers: int, monkeypatch: pytest.MonkeyPatch
):
    write_songs()
    real = Separator.stream

    def stream(self: Separator, source: Path) -> Any:
        if source.name == "2.wav":
            raise ZeroDivisionError("one\nover\nzero")
        return real(self, source)

    monkeypatch.setattr(Separator, "stream", stream)
    outcomes = run(plan(), workers)
    assert statuses(outcomes) == ["done", "done", "failed", "done"]
    error = outcomes[2].error
    assert type(error) is StemsplitError
    assert "2.wav" in error.message
    assert "ZeroDivisionError: one" in error.message
    assert "\n" not in error.message
    (report,) = Path("logs").iterdir()
    assert str(report.name) in error.help
    text = report.read_text()
    assert "Traceback" in text
    assert "separating '2.wav'" in text
    assert "torch" in text


@BOTH
def test_events_of_a_song_come_in_order_and_end_with_its_outcome(workers: int):
    write_songs()
    Path("in/1.wav").write_bytes(b"no")
    heard: dict[str, list[Event | Outcome]] = {}
    outcomes = run(
        plan(), workers, on_event=lambda job, event: heard.setdefault(job.track, []).append(event)
    )
    assert [events[-1] for _, events in sorted(heard.items())] == outcomes
    for track, events in heard.items():
        if track != "1":
            kinds = [type(event) for event in events]
            assert kinds == [Started, Progress, Finished, Outcome]


def test_a_listener_is_never_called_twice_at_once():
    write_songs()
    inside = threading.Lock()

    def listen(job: Job, event: Event | Outcome) -> None:
        assert inside.acquire(blocking=False)
        threading.Event().wait(0.01)
        inside.release()

    assert statuses(run(plan(), 4, on_event=listen)) == ["done"] * 4


@BOTH
def test_what_a_listener_raises_is_raised_and_stops_the_rest(workers: int):
    write_songs(6)

    def listen(job: Job, event: Event | Outcome) -> None:
        if isinstance(event, Progress):
            raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError):
        run(plan(), workers, on_event=listen)
    assert not hash_tree("stems")
    assert not Path("logs").exists()


@BOTH
def test_cancelling_ends_what_runs_and_begins_nothing(workers: int):
    write_songs(6)
    cancelled = threading.Event()
    begun: list[str] = []

    def listen(job: Job, event: Event | Outcome) -> None:
        if isinstance(event, Started):
            begun.append(job.track)
            if job.track == "2":
                cancelled.set()

    outcomes = run(plan(), workers, on_event=listen, cancelled=cancelled)
    earlier = begun[: begun.index("2")]
    for outcome in outcomes:
        may_be_done = outcome.job.track in earlier
        assert outcome.status in ({"done", "cancelled"} if may_be_done else {"cancelled"})
        assert outcome.error is None
    if workers == 1:
        assert statuses(outcomes) == ["done"] * 2 + ["cancelled"] * 4
    assert not list(Path(".").rglob("*.part"))
    again = ["skipped" if status == "done" else "done" for status in statuses(outcomes)]
    assert statuses(run(plan(), workers)) == again


@pytest.mark.parametrize("moment", [0, 2, 4])
def test_ctrl_c_while_songs_are_handed_out_is_a_cancellation_too(
    moment: int, monkeypatch: pytest.MonkeyPatch
):
    write_songs()
    real = ThreadPoolExecutor.submit
    handed: list[object] = []

    def submit(self: ThreadPoolExecutor, work: Any, *arguments: Any) -> Any:
        if work.__name__ == "run":
            handed.append(work)
            if len(handed) == moment:
                raise KeyboardInterrupt
        return real(self, work, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    outcomes = run(plan(), 2)
    assert len(outcomes) == 4
    assert statuses(outcomes)[-1] == ("cancelled" if moment else "done")


def test_ctrl_c_is_a_cancellation():
    write_songs()

    def listen(job: Job, event: Event | Outcome) -> None:
        if isinstance(event, Progress) and job.track == "1":
            raise KeyboardInterrupt

    assert statuses(run(plan(), on_event=listen)) == ["done", "cancelled", "cancelled", "cancelled"]
    assert [path.name for path in Path("stems").iterdir()] == ["0"]


def test_a_separator_that_cannot_be_made_is_the_callers_error():
    write_songs(1)

    def make() -> Separator:
        raise DeviceError("no such device", help="use cpu")

    with pytest.raises(DeviceError):
        run_batch(make, plan(), OPTIONS, on_event=lambda job, event: None)


def test_workers_are_at_least_one():
    write_songs(1)
    with pytest.raises(UsageError, match="0 songs"):
        run(plan(), 0)


def test_workers_share_the_cores_and_give_them_back(monkeypatch: pytest.MonkeyPatch):
    write_songs(2)
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    seen: list[int] = []
    try:
        run(plan(), 2, on_event=lambda job, event: seen.append(torch.get_num_threads()))
        assert set(seen) == {3}
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from linear_model import LinearModel
from stemsplit.batch.local import run_batch
from stemsplit.separation.files import FileOptions, plan_jobs
from stemsplit.separation.separator import Separator
options = FileOptions()
jobs = plan_jobs(["in"], stems=("vocals", "accompaniment"), model="linear", options=options)
outcomes = run_batch(
    lambda: Separator(LinearModel(pause_s=0.1)), jobs, options, workers={workers},
    on_event=lambda job, event: print(type(event).__name__, flush=True),
)
print(*[outcome.status for outcome in outcomes])
"""


@BOTH
def test_a_real_ctrl_c_ends_the_batch_with_nothing_half_written(workers: int):
    write_songs(4, 30.0)
    tests = str(Path(__file__).parent.parent)
    code = CHILD.format(tests=tests, workers=workers)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("Progress"):
                child.send_signal(signal.SIGINT)
                break
        said = child.stdout.read().splitlines()
    assert child.returncode == 0
    assert said[-1] == "cancelled cancelled cancelled cancelled"
    assert not hash_tree("stems")


def test_a_report_that_cannot_be_written_is_no_second_failure(monkeypatch: pytest.MonkeyPatch):
    Path("file").write_text("")
    monkeypatch.setattr(platformdirs, "user_log_path", lambda *a, **k: Path("file/x"))
    monkeypatch.setattr(crash_report.tempfile, "gettempdir", lambda: "file/y")
    error = crash_report.contain(ValueError("\udcff odd"), "testing")
    assert "no report could be written" in error.help
    monkeypatch.setattr(crash_report.tempfile, "gettempdir", lambda: ".")
    error = crash_report.contain(ValueError("\udcff odd"), "testing \udcff")
    assert "crash-" in error.help


def test_out_of_memory_is_no_fault_of_the_program():
    error = crash_report.contain(MemoryError(), "separating 'x'")
    assert "out of memory" in error.message
    assert "--segment" in error.help
    assert not Path("logs").exists()
