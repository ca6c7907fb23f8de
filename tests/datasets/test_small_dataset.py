from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.datasets import open_dataset, open_index, require

TOOL = Path(__file__).parents[2] / "tools" / "small_dataset.py"
STEMS = ("drums", "bass", "other", "vocals")
RATE, SECONDS = 16000, 5.0


def make(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    rest = ["--seconds", str(SECONDS), "--sample-rate", str(RATE), *more]
    command = [sys.executable, str(TOOL), "-o", str(out), *rest]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "set"
    done = make(out, "--tracks", "4")
    assert done.returncode == 0, done.stderr
    return out


def read_all(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.wav")}


def test_it_is_a_data_set_of_three_splits(small: Path) -> None:
    dataset = open_dataset(small)
    require(dataset, "train", "valid", "test")
    assert dataset.stems == STEMS
    assert [track.split for track in dataset.tracks] == ["train", "train", "valid", "test"]
    tracks = open_index(dataset).tracks.values()
    facts = {(track.samples, track.sample_rate, track.channels) for track in tracks}
    assert facts == {(round(RATE * SECONDS), RATE, 2)}


def test_nothing_clips_nothing_is_silent_and_stems_add_up(small: Path) -> None:
    for track in open_dataset(small).tracks:
        stems = {name: soundfile.read(file.path)[0] for name, file in track.stems.items()}
        assert track.mixture is not None
        mixture, _ = soundfile.read(track.mixture.path)
        np.testing.assert_array_equal(sum(stems.values()), mixture)
        for sound in (*stems.values(), mixture):
            assert 0.05 < np.abs(sound).max() < 0.91
            # Of the 0.5 s pieces of every stem more than a third are to be heard.
            pieces = sound[: RATE // 2 * 10].reshape(10, -1)
            assert (np.sqrt((pieces**2).mean(axis=1)) > 3e-3).mean() > 1 / 3


def test_songs_differ_and_the_same_seed_gives_the_same(small: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert make(again, "--tracks", "3", "--jobs", "2").returncode == 0
    here, there = read_all(small), read_all(again)
    assert len(set(here.values())) == 4 * 5
    # Song n does not depend on how many there are; only what it is for does.
    first = {path: data for path, data in there.items() if path.startswith("train/001")}
    assert len(first) == 5
    assert all(here[path] == data for path, data in first.items())
    assert set(there.values()) <= set(here.values())


def test_other_seeds_give_other_songs(small: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "other", "--tracks", "3", "--seed", "1").returncode == 0
    assert not set(read_all(tmp_path / "other").values()) & set(read_all(small).values())


def share_below(sound: np.ndarray, hz: float) -> float:
    power = np.abs(np.fft.rfft(sound.mean(axis=1))) ** 2
    return float(power[: round(hz * len(sound) / RATE)].sum() / power.sum())


def test_stems_have_places_of_their_own_in_the_spectrum(small: Path) -> None:
    for track in open_dataset(small).tracks:
        sounds = {name: soundfile.read(file.path)[0] for name, file in track.stems.items()}
        assert share_below(sounds["bass"], 400) > 0.8
        assert share_below(sounds["vocals"], 100) < 0.1
        assert share_below(sounds["other"], 100) < 0.1
        left, right = sounds["other"].T
        assert np.corrcoef(left, right)[0, 1] < 0.8


@pytest.mark.parametrize("more", [("--tracks", "2"), ("--tracks", "3", "--seconds", "1")])
def test_what_cannot_be_is_refused(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = make(tmp_path / "new", *more)
    assert done.returncode == 2
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    assert make(tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())
