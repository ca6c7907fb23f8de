"""`stemsplit prepare` in a process of its own: what is said, what is left, how it exits."""

from __future__ import annotations

import json
import os
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
from stemsplit.datasets import open_dataset, open_index

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def add_track(folder: Path, seconds: float = 0.1) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(8000 * seconds), 2))
    for stem in ("mixture", "voice"):
        soundfile.write(folder / f"{stem}.flac", noise, 8000)


def test_a_run_a_rerun_and_a_broken_track(home: Path, run: Run) -> None:
    add_track(home / "in" / "A")
    add_track(home / "in" / "B")
    (home / "in" / "notes").mkdir()
    command = ("prepare", "--root", "in", "-o", "out", "--statistics", "64:16", "-j", "1")
    done = run(*command)
    assert done.returncode == 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[:3] == [
        "note: notes: holds no sound file",
        "[1/2] A: done, 0:00",
        "[2/2] B: done, 0:00",
    ]
    assert lines[-2].startswith("2 tracks: 2 done, in ")
    assert lines[-1] == f"the data set is in out{os.sep}"
    index = open_index(open_dataset(home / "out"))
    assert [one.n_fft for one in index.statistics] == [64]

    (home / "in" / "A" / "voice.flac").write_bytes(b"\0" * 100)
    again = run(*command, "--quiet")
    assert again.returncode == 1
    lines = again.stderr.splitlines()
    assert len(lines) == 2
    assert "A: error: " in lines[0]
    assert lines[1].startswith("  help: ")


def test_a_track_that_lacks_a_stem_is_told_and_the_exit_code_says_so(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ABC":
        add_track(home / "in" / name)
    (home / "in" / "B" / "voice.flac").unlink()
    command = ["prepare", "--root", "in", "-o", "out", "--statistics", "none", "-j", "1"]
    assert main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "note: B: lacks voice, left out"
    assert lines[-2].startswith("3 tracks: 2 done, 1 left out, in ")
    assert main([*command, "--quiet"]) == 1
    assert capsys.readouterr().err == "error: B: lacks voice, left out\n"
    (home / "in" / "B" / "mixture.flac").unlink()
    assert main(command) == 0, "a folder that holds no sound is no track"


def test_where_it_is_only_an_index_is_made(home: Path, run: Run) -> None:
    add_track(home / "in" / "A")
    before = sorted(path.name for path in (home / "in").rglob("*"))
    options = ("--no-activity", "--statistics", "none")
    assert run("prepare", "--root", "in", "-o", "in/", *options).returncode == 0
    assert sorted(path.name for path in (home / "in").rglob("*")) == sorted([*before, "index.json"])
    table = json.loads((home / "in" / "index.json").read_text())
    assert table["activity"] is None
    assert table["statistics"] == []
    assert table["files"]["A/voice.flac"]["samples"] == 800


@pytest.mark.parametrize(
    ("arguments", "status", "message", "help"),
    [
        (("--root", "in"), 2, "nothing says where", "-o musdb18-wav/"),
        (("--root", "none", "-o", "out"), 1, "there is no folder 'none'", "spelling"),
        (("--root", ".", "-o", "out"), 1, "no track in '.'", "NAME.stem.mp4"),
        (("--root", "in", "-o", "out", "--stems", "voise"), 2, "no stem 'voise'", "voice"),
        (("--root", "in", "-o", "out", "--format", "mp3"), 2, "'mp3'", "wav"),
        (("--root", "in", "-o", "out", "--bits", "12"), 2, "12 bits", "16"),
        (("--root", "in", "-o", "out", "--sample-rate", "44.1"), 2, "'44.1'", "whole number"),
        (("--root", "in", "-o", "out", "--jobs", "0"), 2, "--jobs '0'", "from 1"),
        (("--root", "in", "-o", "out", "--statistics", "4096"), 2, "'4096'", "4096:1024"),
        (("--root", "in", "-o", "out", "--statistics", "64:65"), 2, "'64:65'", "4096:1024"),
        (("-o", "out", "--offline"), 1, "7-second sample is not on this machine", "--root"),
    ],
)
def test_what_is_wrong_is_told_in_two_lines(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    message: str,
    help: str,
) -> None:
    add_track(home / "in" / "A")
    assert main(["prepare", *arguments]) == status
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("help: ")
    assert help in second
    assert not (home / "out").exists()


def test_ctrl_c_leaves_whole_tracks_only(home: Path) -> None:
    for name in "ABCDEFGH":
        add_track(home / "in" / name, 60.0)
    options = ("--root", "in", "-o", "out", "--sample-rate", "44100", "-j", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "stemsplit", "prepare", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (home / "out" / "train" / "A").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("stopped; run the same command again to go on\n")
    tracks = sorted((home / "out" / "train").iterdir())
    assert 1 <= len(tracks) < 8
    assert not [path for path in tracks if path.name.startswith(".")]
    assert all(len(list(path.iterdir())) == 2 for path in tracks)
