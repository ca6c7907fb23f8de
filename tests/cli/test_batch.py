"""`stemsplit batch` as its users run it.

One file: every command is run on the same few songs, and its words and files are read the same way.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from linear_model import hash_tree, write_song

from stemsplit.batch.catalogue import Song
from stemsplit.batch.job import Ending
from stemsplit.batch.report import Tally
from stemsplit.cli import main
from stemsplit.cli.batch_progress import BatchLines, State
from stemsplit.errors import DecodeError, StorageError, UsageError

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(arguments)
        return Done(status, *capsys.readouterr())

    return call


def write_songs(count: int = 3, seconds: float = 1.0) -> None:
    for number in range(count):
        write_song(Path(f"in/album/{number}.wav"), seconds, seed=number)


def without_report(folder: str) -> dict[str, str]:
    return {
        name.removeprefix(folder): digest
        for name, digest in hash_tree(folder).items()
        if "/stemsplit-" not in name
    }


def events(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_folder_comes_out_as_separate_makes_it_and_a_rerun_skips_it(run: Run):
    write_songs()
    done = run("batch", "in", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "separated  3" in done.stderr
    assert run("separate", "in", "-o", "plain").returncode == 0
    assert without_report("out") == without_report("plain")
    again = run("batch", "in", "-o", "out", "--workers", "2")
    assert again.returncode == 0
    assert "skipped  3" in again.stderr
    assert sorted(path.name for path in Path("out").glob("stemsplit-*")) == ["stemsplit-batch.json"]


def test_what_failed_is_listed_with_reasons_and_done_alone_when_it_is_mended(run: Run):
    write_songs()
    sound = Path("in/album/1.wav").read_bytes()
    Path("in/album/1.wav").write_bytes(b"no music" * 99)
    done = run("batch", "in", "-o", "out")
    assert done.returncode == 1
    assert "failed: " in done.stderr
    assert "is text, not audio" in done.stderr
    (row,) = map(json.loads, Path("out/stemsplit-failed.jsonl").read_text().splitlines())
    assert row["path"] == str(Path("in/album/1.wav").absolute())
    assert (row["output"], row["error"]) == ("album/1", "DecodeError")
    report = json.loads(Path("out/stemsplit-batch.json").read_text())
    assert (report["done"], report["failed"], report["total"]) == (2, 1, 3)
    assert report["errors"] == {"DecodeError": 1}
    assert report["failed_list"] == str(Path("out/stemsplit-failed.jsonl").absolute())
    Path("in/album/1.wav").write_bytes(sound)
    alone = run("batch", "out/stemsplit-failed.jsonl", "-o", "out", "--json")
    assert alone.returncode == 0, alone.stderr
    assert [one["event"] for one in events(alone)] == ["begin", "song_done", "progress", "summary"]
    assert not Path("out/stemsplit-failed.jsonl").exists()
    assert run("separate", "in", "-o", "plain").returncode == 0
    assert without_report("out") == without_report("plain")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files: one of its own, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def bucket() -> Iterator[Any]:
    """Object storage in this process's memory."""
    files = pytest.importorskip("fsspec").filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_a_bucket_gives_songs_and_takes_stems_list_and_report(run: Run, bucket: Any):
    write_songs()
    songs = {path.name: path.read_bytes() for path in Path("in").rglob("*.wav")}
    for name, sound in songs.items():
        bucket.pipe(f"/in/{name}", b"no music" * 99 if name == "1.wav" else sound)
    done = run("batch", "memory://in", "-o", "memory://out", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(bucket.cat("/out/stemsplit-batch.json"))
    assert (report["done"], report["failed"], report["total"]) == (2, 1, 3)
    assert report["failed_list"] == "memory://out/stemsplit-failed.jsonl"
    assert events(done)[-1]["report"] == "memory://out/stemsplit-batch.json"
    bucket.pipe("/in/1.wav", songs["1.wav"])
    alone = run("batch", report["failed_list"], "-o", "memory://out", "--json")
    assert [one["song"] for one in events(alone) if "song" in one] == ["memory://in/1.wav"]
    assert not bucket.exists("/out/stemsplit-failed.jsonl")
    assert run("batch", "in", "-o", "plain").returncode == 0
    for path in Path("plain").rglob("vocals.wav"):
        assert bucket.cat(f"/out/{path.parent.name}/vocals.wav") == path.read_bytes()
    assert "skipped  3" in run("batch", "memory://in", "-o", "memory://out").stderr


def test_that_a_song_is_damaged_is_heard(run: Run):
    write_songs(2)
    sound = Path("in/album/0.wav").read_bytes()
    Path("in/album/0.wav").write_bytes(sound[: len(sound) // 2])
    for status in ("done", "skipped"):
        done = run("batch", "in", "-o", "out")
        assert done.returncode == 0
        assert re.search(r"^with notes +1$", done.stderr, re.MULTILINE)
        assert "/0.wav' is damaged: decoded 0.5 s of 1.0 s announced" in done.stderr
        report = json.loads(Path("out/stemsplit-batch.json").read_text())
        assert (report[status], report["noticed"]) == (2, 1)
        assert report["notices"][0]["song"] == str(Path("in/album/0.wav").absolute())
    told = {
        one["song"][-5:]: one
        for one in events(run("batch", "in", "-o", "out", "--json"))
        if one["event"] == "song_skipped"
    }
    assert told["1.wav"]["notices"] == []
    assert "is damaged" in told["0.wav"]["notices"][0]


def test_json_tells_every_song_and_ends_with_the_report(run: Run):
    write_songs(2)
    Path("in/bad.mp3").write_bytes(b"no music" * 99)
    done = run("batch", "in", "-o", "out", "--json", "--report", "r.json", "--failed", "f.jsonl")
    assert done.returncode == 1
    told = events(done)
    by_song = {one["song"][-7:]: one for one in told if one["event"].startswith("song_")}
    assert by_song["m/0.wav"]["event"] == "song_done"
    assert by_song["m/0.wav"]["audio_s"] == 1.0
    assert by_song["bad.mp3"]["error"] == "DecodeError"
    assert by_song["bad.mp3"]["tries"] == 1
    summary = told[-1]
    assert summary["event"] == "summary"
    stored = json.loads(Path("r.json").read_text())
    assert {key: summary[key] for key in stored} == stored
    assert Path("f.jsonl").exists()
    assert not list(Path("out").glob("stemsplit-*"))


def test_quiet_says_errors_only(run: Run):
    write_songs(1)
    assert run("batch", "in", "-o", "out", "-q").stderr == ""
    Path("in/bad.mp3").write_bytes(b"no music" * 99)
    said = run("batch", "in", "-o", "out", "-q").stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")


def test_a_list_with_outputs_and_times(run: Run):
    write_songs(1)
    Path("songs.csv").write_text("path,output,start,duration\nin/album/0.wav,x/y,0.25,0.5\n")
    assert run("batch", "songs.csv", "-o", "out", "--format", "flac").returncode == 0
    manifest = json.loads(Path("out/x/y/stemsplit.json").read_text())
    assert manifest["duration_s"] == 0.5
    assert Path("out/x/y/vocals.flac").exists()


@pytest.mark.slow
def test_ctrl_c_ends_it_cleanly_and_the_same_command_goes_on(home: Path, run: Run):
    write_songs(8, 10.0)
    command = [sys.executable, "-m", "stemsplit", "batch", "in", "-o", "out", "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if '"song_done"' in line:
                child.send_signal(signal.SIGINT)
                break
        told = [json.loads(line) for line in child.stdout]
    assert child.returncode == 130
    summary = told[-1]
    assert summary["event"] == "summary"
    assert summary["stopped"]
    assert not list(Path("out").rglob("*.part"))
    assert len(list(Path("out").rglob("stemsplit.json"))) == summary["done"] < 8
    again = run("batch", "in", "-o", "out", "--json")
    assert again.returncode == 0
    last = events(again)[-1]
    assert (last["done"], last["skipped"]) == (8 - summary["done"], summary["done"])


def test_a_list_that_is_stopped_midway_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch):
    import stemsplit.batch.local as local

    Path("out").mkdir()
    failed = Path("out/stemsplit-failed.jsonl")
    failed.write_text('{"path": "a.wav"}\n{"path": "b.wav"}\n')

    def stop_at_once(task: Any, make: Any, songs: Any, *, workers: int, cancelled: Any) -> Any:
        cancelled.set()
        yield Ending(next(songs), "failed", DecodeError("no", help="mend it"))

    monkeypatch.setattr(local, "run_catalogue", stop_at_once)
    assert main(["batch", str(failed), "-o", "out", "-q"]) == 130
    rows = [json.loads(line) for line in failed.read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["b.wav", "a.wav"]
    assert rows[1]["message"] == "no"


def fail(*broken: str) -> Callable[..., Any]:
    """An engine that does all songs but some."""

    def run_catalogue(task: Any, make: Any, songs: Any, *, workers: int, cancelled: Any) -> Any:
        for song in songs:
            error = DecodeError("no", help="mend it") if song.track in broken else None
            yield Ending(song, "failed" if error else "done", error)

    return run_catalogue


def listed() -> list[str]:
    path = Path("out/stemsplit-failed.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["output"] for line in lines]


def test_batches_of_parts_of_a_catalogue_keep_each_other_s_failures(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    import stemsplit.batch.local as local

    def batch(source: str, *broken: str) -> None:
        monkeypatch.setattr(local, "run_catalogue", fail(*broken))
        main(["batch", source, "-o", "out", "-q"])

    Path("one.txt").write_text("a.wav\nb.wav\n")
    Path("two.txt").write_text("c.wav\nd.wav\n")
    batch("one.txt", "a", "b")
    batch("two.txt", "c")
    assert listed() == ["a", "b", "c"]
    batch("two.txt")
    assert listed() == ["a", "b"]
    batch("out/stemsplit-failed.jsonl", "b")
    assert listed() == ["b"]
    Path("one.txt").write_text("a.wav\n")
    batch("one.txt")
    assert listed() == [], "what the whole catalogue has no more is not listed either"


def test_what_a_batch_cannot_judge_stays_on_the_list(run: Run, monkeypatch: pytest.MonkeyPatch):
    import stemsplit.batch.local as local

    Path("out").mkdir()
    there = Path("out/stemsplit-failed.jsonl")
    source = str(Path("one.txt").absolute())
    kept = [
        json.dumps({"path": "/m/hand.wav", "output": "hand"}),
        "{damaged",
        json.dumps({"path": "/m/x.wav", "output": "x", "start": 0.0, "source": "/two.txt"}),
        json.dumps({"path": "/m/x.wav", "output": "x", "start": 60.0, "source": "/two.txt"}),
    ]
    mine = json.dumps({"path": "/m/gone.wav", "output": "gone", "source": source})
    there.write_text("\n".join([*kept, mine]) + "\n")
    monkeypatch.setattr(local, "run_catalogue", fail())
    Path("one.txt").write_text("a.wav\nfile://elsewhere/b.wav\n")
    main(["batch", "one.txt", "-o", "out", "-q"])
    assert there.read_text().splitlines() == [*kept, mine], "not all of the source could be read"
    Path("one.txt").write_text("a.wav\n")
    assert main(["batch", "one.txt", "-o", "out", "-q"]) == 0
    assert there.read_text().splitlines() == kept


def test_a_list_that_cannot_be_read_any_more_is_kept_here(
    run: Run, temporary: Path, monkeypatch: pytest.MonkeyPatch
):
    import stemsplit.batch.local as local
    from stemsplit.batch.storage import Folders

    Path("one.txt").write_text("a.wav\n")

    def run_catalogue(task: Any, make: Any, songs: Any, **rest: Any) -> Any:
        yield from fail("a")(task, make, songs, **rest)
        monkeypatch.setattr(Folders, "describe", refuse)

    def refuse(self: Folders, name: str) -> None:
        raise UsageError(f"{name!r} cannot be opened: Stale file handle", help="check it.")

    monkeypatch.setattr(local, "run_catalogue", run_catalogue)
    assert main(["batch", "one.txt", "-o", "out", "-q"]) == 2
    (kept,) = temporary.rglob("stemsplit-failed.jsonl")
    assert '"output": "a"' in kept.read_text()


def test_what_another_batch_lists_meanwhile_stays(run: Run, monkeypatch: pytest.MonkeyPatch):
    import stemsplit.batch.local as local

    Path("out").mkdir()
    Path("one.txt").write_text("a.wav\n")
    there = Path("out/stemsplit-failed.jsonl")
    there.write_text('{"path": "/x/y.wav", "output": "y", "source": "/two.txt"}\n')

    def run_catalogue(task: Any, make: Any, songs: Any, *, workers: int, cancelled: Any) -> Any:
        there.write_text('{"path": "/x/z.wav", "output": "z", "source": "/two.txt"}\n')
        yield from fail("a")(task, make, songs, workers=workers, cancelled=cancelled)

    monkeypatch.setattr(local, "run_catalogue", run_catalogue)
    assert main(["batch", "one.txt", "-o", "out", "-q"]) == 1
    assert listed() == ["z", "a"]


def test_a_report_that_finds_no_place_is_kept_here(
    run: Run,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    import stemsplit.batch.local as local
    from stemsplit.batch.storage import Folders

    def refuse(self: Folders, name: str, data: bytes) -> None:
        if "/out/" in name:
            raise StorageError(f"{name!r} cannot be written", help="try again.")
        Path(name).write_bytes(data)

    Path("one.txt").write_text("a.wav\n")
    monkeypatch.setattr(local, "run_catalogue", fail("a"))
    monkeypatch.setattr(Folders, "write", refuse)
    assert main(["batch", "one.txt", "-o", "out", "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in told[-2:]] == ["summary", "error"]
    assert told[-1]["error"] == "StorageError"
    (kept,) = temporary.rglob("*batch.json")
    assert told[-2]["report"] == str(kept)
    report = json.loads(kept.read_text())
    assert report["failed"] == 1
    assert report["failures"][0]["message"] == "no"
    assert '"output": "a"' in Path(report["failed_list"]).read_text()


def test_time_for_songs_that_were_there_is_not_time_for_the_rest():
    tally = Tally()
    skipped, done = (Ending(Song("/in/a.wav", "a"), one) for one in ("skipped", "done"))
    for _ in range(9000):
        tally.add(skipped, 0.004)
    tally.add(done, 10.0)
    state = State(tally, 10_000, 46.0)
    assert state.left_s == pytest.approx(999 * 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no catalogue"),
        (["nothing"], "no folder and no file 'nothing'"),
        (["in", "--engine", "spark"], "no engine 'spark'"),
        (["in", "--address", "auto"], "--address is of a Ray cluster"),
        (["in", "--workers", "0"], "--workers '0'"),
        (["in", "--retries", "-1"], "--retries '-1'"),
        (["in", "--cpus-per-worker", "0"], "--cpus-per-worker '0'"),
        (["in", "--gpus-per-worker", "1.5"], "cannot have 1.5 GPUs"),
        (["in", "--filename", "{track}/{artist}/{stem}"], "cannot depend on tags"),
        (["in", "--filename", "{stem}.{ext}"], "gives all songs of a folder the same files"),
        (["in", "-o", "in/notes"], "is a file"),
        (["in", "-o", "s4://x"], "no kind of storage 's4'"),
        (["empty"], "has no audio or video files"),
    ],
)
def test_what_cannot_be_meant_is_two_lines_and_the_code_two(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    write_songs(1)
    Path("in/notes").write_text("x")
    Path("empty").mkdir()
    before = hash_tree()
    assert main(["batch", *arguments, *([] if "-o" in arguments else ["-o", "out"]), "-q"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert message in said[0]
    assert hash_tree() == before


def test_a_destination_that_cannot_be_one_is_said_once_and_the_list_kept(run: Run, temporary: Path):
    write_songs(5)
    Path("file").touch()
    done = run("batch", "in", "-o", "file/below")
    assert done.returncode == 1
    # Of five songs, those in hand at the most, and the end.
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) <= 3
    (kept,) = temporary.rglob("stemsplit-failed.jsonl")
    assert 1 <= len(kept.read_text().splitlines()) <= 2
    last = done.stderr.splitlines()[-2:]
    assert last[0].startswith("error: the batch was stopped: ")
    assert last[1] == "help: choose another folder, or move that file away."


def test_without_ray_the_extra_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write_songs(1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["batch", "in", "-o", "out", "--engine", "ray", "-q"]) == 1
    assert 'pip install "stemsplit[ray]"' in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_said_so(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    write_songs(1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        given = ["--engine", "ray", "--address", address]
        assert main(["batch", "in", "-o", "out", "-q", *given]) == 1
    said = capsys.readouterr().err
    assert f"there is no cluster at '{address}': " in said
    assert "--address" in said


def test_the_line_says_how_far_it_is_and_what_is_left():
    tally = Tally()
    for number in range(4):
        tally.add(Ending(Song(f"{number}", f"{number}"), "done", audio_s=1800.0))
    tally.add(Ending(Song("4", "4"), "skipped", audio_s=60.0))
    tally.add(Ending(Song("5", "5"), "failed", DecodeError("no", help="mend it")))
    state = State(tally, 16, 100.0)
    assert state.describe() == (
        "6/16 songs, 1 skipped, 1 failed, 2.00 h of audio, 72.0x real time, 3:20 left"
    )
    assert State(tally, None, 100.0).describe().startswith("6 songs, ")
    assert "left" not in State(tally, None, 100.0).describe()


def test_lines_come_every_ten_seconds(capsys: pytest.CaptureFixture[str]):
    now = [0.0]
    lines = BatchLines(clock=lambda: now[0])
    ending = Ending(Song("a", "a"), "done", audio_s=1.0)
    for second in range(25):
        now[0] = float(second)
        lines.on_ending(ending, State(Tally(), None, now[0]))
    assert len(capsys.readouterr().err.splitlines()) == 2
