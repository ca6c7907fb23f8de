"""What is told while songs are separated: lines, JSON, bars, with a clock that the test moves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stemsplit.batch.local import Outcome
from stemsplit.cli.bars import Bars
from stemsplit.cli.json_lines import JsonLines
from stemsplit.cli.progress import Lines, Plan, Reporter, Summary, choose_reporter
from stemsplit.errors import DecodeError
from stemsplit.separation.events import Event, Finished, Notice, Progress, Started, StemBlock
from stemsplit.separation.naming import Job
from stemsplit.separation.sources import Source

RATE = 1000


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_job(name: str) -> Job:
    folder = Path("out") / Path(name).stem
    return Job(
        source=Source(Path("in") / name, name),
        track=Path(name).stem,
        model="tiny",
        outputs={"vocals": folder / "vocals.wav", "other": folder / "other.wav"},
        manifest=folder / "stemsplit.json",
        stem_mp4=None,
        out_dir=Path("out"),
    )


def make_plan(*names: str) -> Plan:
    return Plan([make_job(name) for name in names], "tiny", ("vocals", "other"), Path("out"))


def started(total: int | None = 100 * RATE) -> Started:
    return Started("in", RATE, 1, ("vocals", "other"), total, "cpu", "torch", "fp32")


def progress(done_s: float, elapsed_s: float, total: int | None = 100 * RATE) -> Progress:
    return Progress(round(done_s * RATE), total, RATE, elapsed_s)


def play(reporter: Reporter, plan: Plan, clock: Clock) -> Summary:
    """Let the first song succeed, the second fail, and stop the rest."""
    first, second, *rest = plan.jobs
    error = DecodeError("no\nsound", help="get another")
    outcomes = [
        Outcome(first, "done", elapsed_s=10.0, audio_s=100.0),
        Outcome(second, "failed", error, elapsed_s=1.0),
        *(Outcome(job, "cancelled") for job in rest),
    ]
    events: list[tuple[float, Event]] = [
        (0, started()),
        (5, progress(20, 5)),
        (4, StemBlock(0, {})),
        (2, progress(50, 11)),
        (1, progress(60, 12)),
        (0, Notice("clipped\x1b")),
        (3, Finished(100 * RATE, RATE, 10.0)),
    ]
    with reporter:
        reporter.on_plan(plan)
        reporter.on_download("tiny", 5, None)
        reporter.on_download("tiny", 10_000, 20_000)
        reporter.on_download("tiny", 20_000, 20_000)
        reporter.on_download("tiny", 20_000, 20_000)
        reporter.on_graph("tiny")
        for pause_s, event in events:
            clock.now_s += pause_s
            reporter.on_event(first, event)
        for outcome in outcomes:
            reporter.on_event(outcome.job, outcome)
    summary = Summary(outcomes, 20.0)
    reporter.on_summary(plan, summary)
    return summary


def test_lines() -> None:
    out, clock = io.StringIO(), Clock()
    summary = play(Lines(out, clock), make_plan("a.mp3", "b.mp3", "c.mp3"), clock)
    assert out.getvalue().splitlines() == [
        "downloading tiny: 5 B",
        "downloading tiny: 20 kB of 20 kB",
        "preparing tiny for this backend, which takes a while ...",
        "[1/3] a.mp3: 1:40, 1000 Hz, mono -> vocals, other (cpu, torch, fp32)",
        "[1/3] a.mp3: 50%, 4.5x real time, 0:11 left",
        "[1/3] a.mp3: note: clipped\\x1b",
        f"[1/3] a.mp3: done in 0:10, 10.0x real time: {Path('out', 'a')}",
        "[2/3] b.mp3: error: no\\nsound",
        "  help: get another",
        "[3/3] c.mp3: stopped",
        "1 song separated, 1 failed, 1 not done; 1:40 of audio in 0:20, 5.0x real time",
        f"the stems are in {Path('out', 'a')}/".replace("\\", "/"),
        "failed: b.mp3: no\\nsound",
        "stopped; run the same command again to go on",
    ]
    assert summary.exit_code == 130


def test_lines_of_unknown_length() -> None:
    out, clock = io.StringIO(), Clock()
    plan = make_plan("a.mp3")
    reporter = Lines(out, clock)
    reporter.on_plan(plan)
    reporter.on_event(plan.jobs[0], started(None))
    clock.now_s += 11
    reporter.on_event(plan.jobs[0], progress(75, 11, None))
    assert out.getvalue().splitlines() == [
        "a.mp3: 1000 Hz, mono -> vocals, other (cpu, torch, fp32)",
        "a.mp3: 1:15, 6.8x real time",
    ]


def test_json_lines() -> None:
    out, clock = io.StringIO(), Clock()
    play(JsonLines(out, clock), make_plan("ä.mp3", "b.mp3", "c.mp3"), clock)
    assert out.getvalue().isascii()
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == [
        *["download"] * 3,
        "graph",
        "started",
        *["progress"] * 3,
        "notice",
        "finished",
        "file_done",
        "file_failed",
        "file_cancelled",
        "summary",
    ]
    path = str(Path("in", "ä.mp3"))
    assert {event["file"] for event in events[4:11]} == {path}
    assert events[1] == {
        "event": "download", "model": "tiny", "done_bytes": 20_000, "total_bytes": 20_000,
    }  # fmt: skip
    assert events[3] == {"event": "graph", "model": "tiny"}
    assert events[6] == {
        "event": "progress", "file": path, "done_s": 50.0, "total_s": 100.0, "speed": 4.545,
        "remaining_s": 11.0,
    }  # fmt: skip
    assert events[11]["message"] == "no\nsound"
    assert events[-1]["cancelled"] == 1


def test_json_progress_comes_twice_a_second_at_most() -> None:
    out, clock = io.StringIO(), Clock()
    plan = make_plan("a.mp3", "b.mp3")
    reporter = JsonLines(out, clock)
    for step in range(100):
        clock.now_s += 0.125
        for job in plan.jobs:
            reporter.on_event(job, progress(step, step + 1))
    assert len(out.getvalue().splitlines()) == 2 * 25


class Terminal(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def make_console(out: io.StringIO, **options: Any) -> Console:
    return Console(file=out, force_terminal=True, width=100, legacy_windows=False, **options)


def test_bars_leave_the_same_last_lines() -> None:
    out = Terminal()
    play(Bars(make_console(out)), make_plan("a [b] :smile:.mp3", "b.mp3", "c.mp3"), Clock())
    shown = out.getvalue()
    for text in (
        "a [b] :smile:.mp3",
        "note: clipped\\x1b",
        "done in 0:10, 10.0x real time",
        "1 song separated, 1 failed, 1 not done",
        "failed: b.mp3: no\\nsound",
        "\x1b[?25h",
    ):
        assert text in shown, text


def test_bars_show_how_far_how_fast_and_how_long_still() -> None:
    out = Terminal()
    plan = make_plan("a.mp3", "b.mp3")
    bars = Bars(make_console(out, no_color=True))
    with bars:
        bars.on_plan(plan)
        bars.on_download("tiny", 10_000, 20_000)
        bars._live.refresh()
        bars.on_graph("tiny")
        bars._live.refresh()
        bars.on_event(plan.jobs[0], started())
        bars.on_event(plan.jobs[0], progress(50, 10))
        assert [task.description for task in bars._live.tasks] == ["songs", "a.mp3"]
        bars._live.refresh()
    shown = out.getvalue()
    for text in ("loading tiny", "downloading tiny", "10 kB/20 kB", "preparing", "songs"):
        assert text in shown, text
    assert "50 %" in shown
    assert "5.0x real time, 0:10 left" in shown


def test_a_song_that_fails_before_it_begins_has_no_bar() -> None:
    out = Terminal()
    plan = make_plan("a.mp3")
    bars = Bars(make_console(out))
    with bars:
        bars.on_plan(plan)
        bars.on_event(plan.jobs[0], Outcome(plan.jobs[0], "failed", DecodeError("x", help="y")))
    assert "a.mp3: error: x" in out.getvalue()


def test_a_summary_counts() -> None:
    jobs = [make_job(f"{n}.mp3") for n in range(3)]
    done = Outcome(jobs[0], "done", audio_s=60)
    skipped = Outcome(jobs[1], "skipped", audio_s=60)
    failed = Outcome(jobs[2], "failed", DecodeError("x", help="y"))
    assert Summary([done, skipped], 10).exit_code == 0
    assert Summary([done, skipped], 10).speed == 6
    assert Summary([skipped], 10).describe() == "1 song skipped"
    assert Summary([done, failed], 10).exit_code == 1
    assert Summary([failed], 0).describe() == "1 song failed"
    assert Summary([skipped, skipped], 1).describe() == "2 songs skipped"


@pytest.mark.parametrize(
    ("is_terminal", "term", "options", "kind"),
    [
        (True, "xterm", {}, Bars),
        (True, "dumb", {}, Lines),
        (False, "xterm", {}, Lines),
        (True, "xterm", {"quiet": True}, Reporter),
        (True, "xterm", {"as_json": True}, JsonLines),
        (True, "xterm", {"as_json": True, "quiet": True}, JsonLines),
    ],
)
def test_which_one_is_used(
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    term: str,
    options: dict[str, bool],
    kind: type[Reporter],
) -> None:
    monkeypatch.setattr("sys.stderr", Terminal() if is_terminal else io.StringIO())
    monkeypatch.setenv("TERM", term)
    chosen = choose_reporter(**{"quiet": False, "as_json": False, **options})
    assert type(chosen) is kind


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_lines_that_nobody_can_read_stop_nothing_but_json_does() -> None:
    plan = make_plan("a.mp3")
    Lines(Broken()).on_event(plan.jobs[0], started())
    reporter: Callable[..., None] = JsonLines(Broken()).on_event
    with pytest.raises(BrokenPipeError):
        reporter(plan.jobs[0], started())
