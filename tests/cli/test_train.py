"""The command train, as a person types it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.cli import main
from stemsplit.models.open_unmix import OpenUnmixConfig

ROOT = Path(__file__).parents[2]
STEMS = ("vocals", "drums")
TINY = OpenUnmixConfig.tiny(STEMS)
RECIPE = f"""\
extends = "umx"
description = "tiny"

[model]
stems = ["vocals", "drums"]
statistics = false
config = {{ n_fft = {TINY.n_fft}, hop_length = {TINY.hop_length}, hidden_size = 16, layers = 2 }}

[data]
excerpt_s = 0.1
samples_per_track = 2
workers = 0

[training]
batch = 2
max_epochs = 2
tensorboard = false

[validation]
tracks = 1
scores_every = 2
"""


@pytest.fixture
def here(home: Path) -> Path:
    """The current folder, with songs and a recipe in it."""
    dice = np.random.default_rng(0)
    for split in ("train", "valid"):
        for stem in STEMS:
            path = home / "songs" / split / f"{split} song" / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * dice.standard_normal((22050, 2)), 44100, subtype="FLOAT")
    (home / "tiny.toml").write_text(RECIPE)
    return home


def train(*arguments: str) -> int:
    return main(
        ["train", "--recipe", "tiny.toml", "--root", "songs", "--device", "cpu", *arguments]
    )


def test_it_trains_tells_and_leaves_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0].startswith("open-unmix: 23,936 parameters, learns vocals, drums")
    assert "1 track to learn from, 1 to judge by; 1 batches an epoch, 2 epochs (cpu)" in lines[1]
    assert lines[3].startswith("epoch 0: loss ")
    assert "uSDR" in lines[4]
    assert lines[-1] == f"trained: stemsplit song.mp3 -m {Path('runs/tiny')}"
    soundfile.write("song.wav", np.zeros((4410, 2)), 44100)
    assert main(["song.wav", "-m", "runs/tiny", "-o", "out"]) == 0
    assert sorted(path.name for path in (here / "out/song").glob("*.wav")) == [
        "drums.wav", "vocals.wav",
    ]  # fmt: skip


def test_a_longer_run_is_a_resumed_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-o", "run", "--epochs", "1", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert main(["train", "--resume", "run", "--epochs", "3", "--device", "cpu"]) == 0
    assert "goes on with epoch 1" in capsys.readouterr().err
    assert len((here / "run/metrics.csv").read_text().splitlines()) == 4
    assert "max_epochs = 3" in (here / "run/recipe.toml").read_text()


def test_the_fast_mode_needs_no_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--dev", "--stem", "drums") == 0
    said = capsys.readouterr().err
    assert "learns drums\n" in said
    folder = next(line for line in said.splitlines() if line.startswith("everything goes to "))
    shutil.rmtree(folder.removeprefix("everything goes to ").rstrip("/"))
    assert not (here / "runs").exists()


def test_the_recipes_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["recipe", "what", "it", "trains"]
    assert any(line.startswith("bsrnn ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message", "help"),
    [
        ([], "there is no recipe to train by", "--arch NAME"),
        (["--arch", "umx", "--recipe", "tiny.toml"], "are both given", "name one"),
        (["--arch", "bsrn"], "there is no recipe 'bsrn'", "did you mean bsrnn"),
        (
            ["--arch", "umx", "--set", "optimiser.l=1"],
            "no recipe key 'optimiser.l'",
            "optimiser.lr",
        ),
        (["--arch", "umx", "--epochs", "0"], "--epochs '0' is not possible", "from 1"),
        (["--arch", "umx", "--root", "nowhere"], "nowhere", ""),
        (["--arch", "umx", "--root", "songs"], "no stem of the data set 'bass'", "--stem"),
        (["--resume", "songs"], "holds no run", "-o"),
        (["--resume", "run", "--arch", "umx"], "--arch would change it", "leave out --arch"),
        (["--arch", "umx", "--root", "songs", "--device", "cuda:77"], "'cuda:77'", "--device"),
    ],
)
def test_what_is_wrong_is_told_in_two_lines(
    arguments: list[str],
    message: str,
    help: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", *arguments]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert message in lines[0].removeprefix("error: ")
    assert help in lines[1].removeprefix("help: ")
    assert not (here / "runs").exists()


def test_a_missing_package_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stemsplit.training.engine.NEEDED", {"stemsplit_has_no_such": "lightning-of-a-kind"}
    )
    assert train() == 2
    said = capsys.readouterr().err
    assert "training needs lightning-of-a-kind, which is not installed" in said
    assert 'pip install "stemsplit[train]"' in said


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(here: Path) -> None:
    command = [
        sys.executable, "-m", "stemsplit", "train", "--recipe", "tiny.toml", "--root", "songs",
        "-o", "run", "--device", "cpu", "--epochs", "100000",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        last = here / "run/checkpoints/last.ckpt"
        deadline_s = time.monotonic() + 120
        while not last.exists() and time.monotonic() < deadline_s and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1].endswith(f"stemsplit train --resume {here / 'run'}")
    assert not list(here.rglob("*.part"))
