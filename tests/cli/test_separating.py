"""Songs through the command with a tiny model: files, exit codes, JSON, signals, broken pipes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.cli import main

RATE = 8000
Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[2]


def write_song(path: Path, seconds: float = 2.0, channels: int = 2) -> int:
    """Write noise, and return its number of samples."""
    samples = round(seconds * RATE)
    noise = 0.1 * np.random.default_rng(0).standard_normal((samples, channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, RATE, format="WAV")
    return samples


def list_files(folder: Path) -> list[str]:
    """Return all files and folders below one, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def read_events(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_song_becomes_stems_and_a_rerun_skips_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = write_song(home / "song.wav")
    assert main(["song.wav"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for data"
    said = captured.err.splitlines()
    assert said[0] == "song.wav: 0:02, 8000 Hz, stereo -> vocals, accompaniment (cpu, torch, fp32)"
    assert said[1].startswith("song.wav: done in ")
    assert said[-2].startswith("1 song separated; 0:02 of audio in ")
    assert said[-1] == f"the stems are in {Path('stems', 'song')}{os.sep}"
    folder = home / "stems" / "song"
    assert list_files(folder) == ["accompaniment.wav", "stemsplit.json", "vocals.wav"]
    for stem in ("vocals", "accompaniment"):
        info = soundfile.info(folder / f"{stem}.wav")
        assert (info.frames, info.samplerate, info.subtype) == (samples, RATE, "PCM_24")

    assert main(["song.wav"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"song.wav: done already, skipped: {Path('stems', 'song')}"
    assert said[1] == "1 song skipped"


def test_options_reach_the_files(home: Path) -> None:
    write_song(home / "song.wav", 3.0)
    options = ["--two-stems", "vocals", "--format", "flac", "--bits", "16", "-o", "out"]
    framing = ["--start", "0:01", "--duration", "1.5", "--shifts", "2"]
    names = ["--filename", "{stem} of {track}", "--clip", "rescale", "--overlap", "0.5"]
    assert main(["song.wav", *options, *framing, *names, "--quiet"]) == 0
    told = json.loads((home / "out" / "song.stemsplit.json").read_text())
    chosen = told["recipe"]["options"]
    assert chosen["start_s"] == 1.0
    assert chosen["shifts"] == 2
    assert chosen["overlap"] == 0.5
    assert told["recipe"]["clip"] == "rescale"
    for stem in ("vocals", "no_vocals"):
        info = soundfile.info(home / "out" / f"{stem} of song.flac")
        assert (info.frames, info.subtype) == (12_000, "PCM_16")


def test_a_failing_song_stops_no_other_and_the_exit_code_says_so(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_song(home / "album" / "a.wav")
    (home / "album" / "b.mp3").write_bytes(b"this is no sound\n" * 100)
    write_song(home / "album" / "disc 2" / "c.wav", channels=1)
    assert main(["album"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("[2/3] b.mp3: error: ") for line in said)
    assert any(line.startswith("  help: ") for line in said)
    assert said[-3].startswith("2 songs separated, 1 failed; 0:04 of audio in ")
    assert said[-2] == f"the stems are in stems{os.sep}"
    assert said[-1].startswith("failed: b.mp3: ")
    assert (home / "stems" / "disc 2" / "c" / "vocals.wav").exists()
    assert not (home / "stems" / "b").exists()


def test_quiet_says_errors_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_song(home / "a.wav")
    (home / "b.wav").write_bytes(b"junk" * 100)
    assert main(["a.wav", "b.wav", "-q"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    said = captured.err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("error: b.wav: ")
    assert said[1].startswith("help: ")


def test_json_tells_everything_on_standard_output(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = write_song(home / "ä.wav")
    (home / "b.wav").write_bytes(b"junk" * 100)
    assert main(["ä.wav", "b.wav", "--json", "--residual", "--jobs", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.isascii()
    events = read_events(captured.out)
    mine = [event for event in events if event.get("file") == "ä.wav"]
    kinds = [event["event"] for event in mine]
    assert kinds[0] == "started"
    assert kinds[-2:] == ["finished", "file_done"]
    assert set(kinds[1:-2]) <= {"progress", "notice"}
    stems = ["vocals", "accompaniment", "residual"]
    assert mine[0] == {
        "event": "started",
        "file": "ä.wav",
        "track": "ä",
        "sample_rate": RATE,
        "channels": 2,
        "stems": stems,
        "duration_s": 2.0,
        "device": "cpu",
        "backend": "torch",
        "precision": "fp32",
    }
    assert mine[-2]["samples"] == samples
    done = mine[-1]
    assert list(done["outputs"]) == stems
    assert all(Path(path).exists() for path in done["outputs"].values())
    assert Path(done["manifest"]).exists()
    assert (done["stem_mp4"], done["gain_db"], done["audio_s"]) == (None, 0.0, 2.0)
    failed = next(event for event in events if event["event"] == "file_failed")
    assert failed["file"] == "b.wav"
    assert failed["error"] == "DecodeError"
    assert failed["message"]
    assert failed["help"]
    summary = events[-1]
    assert summary["event"] == "summary"
    counts = [summary[word] for word in ("done", "skipped", "failed", "cancelled")]
    assert counts == [1, 0, 1, 0]
    assert summary["out_dir"] == "stems"
    assert [failure["file"] for failure in summary["failures"]] == ["b.wav"]

    assert main(["ä.wav", "--json", "--residual"]) == 0
    again = read_events(capsys.readouterr().out)
    assert [event["event"] for event in again] == ["file_skipped", "summary"]
    assert again[0]["outputs"] == done["outputs"]


def test_json_ends_with_the_error_that_ends_the_run(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nope.wav", "--json"]) == 2
    captured = capsys.readouterr()
    (event,) = read_events(captured.out)
    assert event["event"] == "error"
    assert event["error"] == "UsageError"
    assert captured.err.startswith("error: there is no file 'nope.wav'\nhelp: ")


def test_dry_run_names_the_outputs_and_writes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_song(home / "song.wav")
    assert main(["song.wav", "-", "--dry-run", "--stems", "vocals"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model tiny, stems vocals",
        "song.wav:",
        f"  {Path('stems', 'song', 'vocals.wav')}",
        f"  {Path('stems', 'song', 'stemsplit.json')}",
        "stdin:",
        f"  {Path('stems', 'stdin', 'vocals.wav')}",
        f"  {Path('stems', 'stdin', 'stemsplit.json')}",
    ]
    assert main(["song.wav", "--dry-run", "--json"]) == 0
    (event,) = read_events(capsys.readouterr().out)
    assert (event["event"], event["file"], event["track"]) == ("planned", "song.wav", "song")
    assert list(event["outputs"]) == ["vocals", "accompaniment"]
    assert list_files(home) == ["song.wav"]


class Piped(io.TextIOWrapper):
    """Standard input from a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.BytesIO(path.read_bytes()))


def test_standard_input_is_a_song(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_song(home / "song.wav")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for last in ("file_done", "file_skipped"):
        monkeypatch.setattr("sys.stdin", Piped(home / "song.wav"))
        assert main(["-", "--json"]) == 0
        events = read_events(capsys.readouterr().out)
        assert {event["file"] for event in events if "file" in event} == {"-"}
        assert [event["event"] for event in events][-2:] == [last, "summary"]
        assert list_files(temporary) == [], "what was spooled is gone"
    assert list_files(home / "stems") == [
        "stdin",
        "stdin/accompaniment.wav",
        "stdin/stemsplit.json",
        "stdin/vocals.wav",
    ]


def test_standard_input_without_anything(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "empty").touch()
    monkeypatch.setattr("sys.stdin", Piped(home / "empty"))
    assert main(["-"]) == 1
    assert capsys.readouterr().err.startswith("error: nothing came in on standard input\nhelp: ")
    (home / "noise").write_bytes(b"\0\1\2 not a song" * 99)
    monkeypatch.setattr("sys.stdin", Piped(home / "noise"))
    assert main(["-"]) == 1
    said = capsys.readouterr().err
    assert "stdin" in said
    assert "stemsplit-stdin-" not in said
    monkeypatch.setattr("sys.stdin", None)
    assert main(["-"]) == 2
    assert "pipe something into it" in capsys.readouterr().err


def test_wrong_options_are_told_before_standard_input_is_read(home: Path, run: Run) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as end:
        done = run("-", "-m", "tinny", stdin=end)
    os.close(writing)
    assert done.returncode == 2
    assert "tinny" in done.stderr


def test_any_name_works_in_an_ascii_locale(home: Path, run: Run) -> None:
    write_song(home / "ünï 🎤.wav")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("ünï 🎤.wav", env=plain, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done in") == 1
    done = run("models", "info", "umx", env={"PYTHONIOENCODING": "ascii:strict"}, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert "St\\xf6ter" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_it_with_nothing_half_written(home: Path, number: str) -> None:
    write_song(home / "song.wav", 60.0)
    command = [sys.executable, "-m", "stemsplit", "song.wav", "--shifts", "1000"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert "->" in first, first + process.stderr.read()
        time.sleep(0.2)
        process.send_signal(getattr(signal, number))
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "song.wav: stopped" in rest
    assert "Traceback" not in rest
    assert [name for name in list_files(home) if name.endswith((".wav", ".part", ".json"))] == [
        "song.wav"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="uses a shell's pipes")
def test_a_reader_that_has_gone_ends_it_quietly(home: Path) -> None:
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("there is no bash here to make the pipe")
    write_song(home / "song.wav")
    python = f"{sys.executable} -m stemsplit"
    script = f"{python} song.wav --json | :; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, env=env, check=True, timeout=120
    )
    assert done.stdout == "1\n"
    assert done.stderr == ""
    assert list_files(home) == ["song.wav"], "nothing half-written"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_standard_output_is_told(home: Path, run: Run) -> None:
    with open("/dev/full", "w") as full:
        done = run("models", "list", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written: No space left")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="closes descriptors in a shell")
def test_closed_streams_do_no_harm(home: Path) -> None:
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("there is no sh here to close the streams")
    python = f"{sys.executable} -m stemsplit"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for script in (f"{python} models list >&-", f"{python} models list 2>&- >list"):
        subprocess.run([shell, "-c", script], check=True, env=env, timeout=60)
    assert (home / "list").read_text().startswith("NAME ")
    done = subprocess.run([shell, "-c", f"{python} nope.wav 2>&-"], env=env, timeout=60)
    assert done.returncode == 2
