from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from folders import MUSDB, RATE, add_stem_mp4, add_track

from stemsplit.audio import parse_format
from stemsplit.datasets import Validation, open_dataset, open_index
from stemsplit.datasets.decoding import Decoding
from stemsplit.datasets.index import INDEX_NAME, Index
from stemsplit.datasets.prepare import PrepareOptions, prepare
from stemsplit.datasets.spectrogram_statistics import compute_statistics, find_statistics
from stemsplit.datasets.track import Dataset
from stemsplit.errors import DatasetError, UsageError

SAMPLES = 7 * RATE


def index_in_place(root: Path, *, statistics: tuple[tuple[int, int], ...] = ((64, 16),)) -> None:
    options = PrepareOptions(Decoding(parse_format("wav", 16)), statistics=statistics)
    outcomes = prepare(
        open_dataset(root), root, options, on_outcome=lambda _: None, on_note=lambda _: None
    )
    assert {outcome.status for outcome in outcomes} <= {"done", "skipped"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two tracks for training, one for validation, one for the test; indexed."""
    root = tmp_path / "set"
    for seed, place in enumerate(["train/A", "train/B", "valid/C", "test/D"]):
        add_track(root / place, ("mixture", *MUSDB), samples=SAMPLES, seed=seed)
    index_in_place(root)
    return root


def open_both(root: Path) -> tuple[Dataset, Index]:
    dataset = open_dataset(root)
    return dataset, open_index(dataset)


def rewrite(path: Path, samples: int = SAMPLES, level: float = 0.05) -> None:
    noise = np.random.default_rng(9).uniform(-level, level, (samples, 2))
    soundfile.write(path, noise, RATE, subtype="PCM_16")


def test_an_index_has_lengths_peaks_activity_and_statistics(root: Path) -> None:
    dataset, index = open_both(root)
    assert index.notes == ()
    assert sorted(index.tracks) == ["A", "B", "C", "D"]
    track = index.tracks["B"]
    assert (track.samples, track.sample_rate, track.channels) == (SAMPLES, RATE, 2)
    samples, _ = soundfile.read(dataset.tracks[1].stems["bass"].path)
    assert track.peaks["bass"] == np.abs(samples).max()
    assert track.activity == dict.fromkeys(MUSDB, ((0, 6 * RATE),))
    (statistics,) = index.statistics
    assert (statistics.n_fft, statistics.hop_length) == (64, 16)
    assert statistics.mean.shape == statistics.scale.shape == (33,)


def test_without_an_index_there_are_lengths_only(tmp_path: Path) -> None:
    add_track(tmp_path / "A", suffix="flac")
    _, index = open_both(tmp_path)
    assert index.tracks["A"].samples == 400
    assert not index.tracks["A"].peaks
    assert not index.tracks["A"].activity
    assert index.notes == ()
    assert [path.name for path in tmp_path.iterdir()] == ["A"]


def test_nothing_is_read_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a recording was read")

    monkeypatch.setattr("stemsplit.datasets.index.read_excerpt", refuse)
    monkeypatch.setattr("stemsplit.datasets.index.digest_file", refuse)
    assert open_both(root)[1].notes == ()


def test_a_file_that_changed_is_measured_again(root: Path) -> None:
    path = root / "train" / "A" / "vocals.wav"
    rewrite(path)
    _, index = open_both(root)
    assert index.tracks["A"].peaks["vocals"] == pytest.approx(0.05, abs=1e-3)
    assert index.tracks["A"].activity["vocals"] == ((0, 6 * RATE),)
    (note,) = index.notes
    assert "1 of 20 files" in note
    assert "train/A/vocals.wav" in note
    # The mixture is as it was, and so are its statistics.
    assert len(index.statistics) == 1
    index_in_place(root)
    assert open_both(root)[1].notes == ()


def test_a_file_of_the_same_size_with_other_samples_is_noticed(root: Path) -> None:
    path = root / "train" / "A" / "vocals.wav"
    status = path.stat()
    rewrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert path.stat().st_size == status.st_size
    assert len(open_both(root)[1].notes) == 1


def test_a_file_that_lost_a_part_between_is_noticed(root: Path) -> None:
    path = root / "train" / "A" / "vocals.wav"
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(44 + 4 * 12000)
        file.write(bytes(4 * 1000))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert "train/A/vocals.wav: measured again" in open_both(root)[1].notes[0]
    index_in_place(root)
    assert open_both(root)[1].notes == ()


def test_a_copied_data_set_fits(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    _, index = open_both(copy)
    (note,) = index.notes
    assert "20 of 20 files have another time" in note
    assert index.tracks["A"].peaks == open_both(root)[1].tracks["A"].peaks
    assert len(index.statistics) == 1
    index_in_place(copy)
    _, index = open_both(copy)
    assert index.notes == ()
    assert len(index.statistics) == 1


def test_tracks_that_come_and_go_make_the_statistics_stale(root: Path) -> None:
    add_track(root / "test" / "E", MUSDB, samples=SAMPLES, seed=7)
    _, index = open_both(root)
    assert "4 of 24 files" in index.notes[0]
    assert len(index.statistics) == 1
    assert index.tracks["E"].peaks
    shutil.rmtree(root / "test" / "E")
    shutil.rmtree(root / "train" / "B")
    _, index = open_both(root)
    assert index.statistics == ()
    assert index.notes == ("spectrogram statistics are of other training tracks: not used",)


def test_statistics_of_another_validation_are_not_used_but_computed(root: Path) -> None:
    dataset = open_dataset(root, valid=Validation(names=("A",)))
    index = open_index(dataset)
    assert index.statistics == ()
    found = find_statistics(dataset, index, 64, 16)
    again = compute_statistics([t for t in dataset.tracks if t.name in ("B", "C")], 64, 16)
    np.testing.assert_array_equal(found.mean, again.mean)
    dataset, index = open_both(root)
    assert find_statistics(dataset, index, 64, 16) is index.statistics[0]


def test_other_parameters_of_activity_are_noticed(root: Path) -> None:
    path = root / INDEX_NAME
    table = json.loads(path.read_text())
    table["activity"]["least"] = 0.9
    for record in table["files"].values():
        if "activity" in record:
            record["activity"] = [[1, 2]]
    path.write_text(json.dumps(table))
    _, index = open_both(root)
    assert index.notes == ("activity was searched with other parameters: it is searched again",)
    assert index.tracks["A"].activity["drums"] == ((0, 6 * RATE),)
    index_in_place(root)
    assert open_both(root)[1].notes == ()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1, "files": 3}'])
def test_an_index_that_is_none_is_not_used(root: Path, text: str) -> None:
    (root / INDEX_NAME).write_text(text)
    _, index = open_both(root)
    assert "not used" in index.notes[0]
    assert index.tracks["A"].samples == SAMPLES


def test_an_index_of_another_version_is_not_used(root: Path) -> None:
    (root / INDEX_NAME).write_text('{"version": 99}')
    assert "version 99" in open_both(root)[1].notes[0]


def test_lengths_are_the_mixtures_or_the_longest_stems(tmp_path: Path) -> None:
    folder = add_track(tmp_path / "A", ("piano", "voice"), samples=500)
    rewrite(folder / "voice.wav", samples=700)
    assert open_both(tmp_path)[1].tracks["A"].samples == 700
    rewrite(folder / "mixture.wav", samples=600)
    assert open_both(tmp_path)[1].tracks["A"].samples == 600


def test_different_rates_in_one_track_are_refused(tmp_path: Path) -> None:
    add_track(tmp_path / "A", ("piano",), rate=8000)
    add_track(tmp_path / "A", ("voice",), rate=11025)
    with pytest.raises(DatasetError, match="'A' have 8000 and 11025 Hz") as caught:
        open_both(tmp_path)
    assert "--sample-rate" in caught.value.help


def test_stem_mp4_has_to_be_prepared_first(tmp_path: Path) -> None:
    add_stem_mp4(tmp_path / "A.stem.mp4")
    with pytest.raises(DatasetError) as caught:
        open_both(tmp_path)
    assert "stemsplit prepare" in caught.value.help


def compute_plainly(root: Path, n_fft: int, hop: int, paths: list[str]) -> tuple[np.ndarray, ...]:
    """Return mean and scale of all whole frames, each transformed by itself."""
    frames = []
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    for path in paths:
        samples, _ = soundfile.read(root / path, always_2d=True)
        for start in range(0, len(samples) - n_fft + 1, hop):
            spectrum = np.fft.rfft(samples[start : start + n_fft] * window[:, None], axis=0)
            frames.append(np.abs(spectrum).mean(axis=1))
    deviation = np.std(frames, axis=0)
    return np.mean(frames, axis=0), np.maximum(deviation, 1e-4 * deviation.max())


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (62, 62), (128, 50)])
def test_statistics_are_those_of_every_whole_frame(root: Path, n_fft: int, hop: int) -> None:
    tone = 0.5 * np.sin(np.arange(SAMPLES) / 3)
    soundfile.write(root / "train" / "A" / "mixture.wav", np.stack([tone, tone], 1), RATE)
    found = compute_statistics(open_dataset(root).select("train"), n_fft, hop)
    paths = ["train/A/mixture.wav", "train/B/mixture.wav"]
    mean, scale = compute_plainly(root, n_fft, hop, paths)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-4, atol=1e-6)


def test_the_scale_has_a_floor(tmp_path: Path) -> None:
    folder = tmp_path / "A"
    folder.mkdir()
    constant = np.full((4000, 1), 0.25)
    constant[64 * 31 :] = 0.5
    soundfile.write(folder / "mixture.wav", constant, RATE, subtype="FLOAT")
    soundfile.write(folder / "piano.wav", constant, RATE, subtype="FLOAT")
    found = compute_statistics(open_dataset(tmp_path).tracks, 64, 64)
    assert found.scale.min() == pytest.approx(1e-4 * found.scale.max())


def test_without_a_mixture_stems_are_summed(root: Path) -> None:
    for name in "AB":
        (root / "train" / name / "mixture.wav").unlink()
    before = compute_statistics(open_dataset(root).select("train"), 64, 16)
    for name in "AB":
        folder = root / "train" / name
        total = sum(soundfile.read(folder / f"{stem}.wav")[0] for stem in MUSDB)
        soundfile.write(folder / "mixture.wav", total, RATE, subtype="FLOAT")
    after = compute_statistics(open_dataset(root).select("train"), 64, 16)
    np.testing.assert_allclose(before.mean, after.mean, rtol=1e-5)


def test_statistics_of_nothing_are_refused(tmp_path: Path) -> None:
    add_track(tmp_path / "A", samples=60)
    tracks = open_dataset(tmp_path).tracks
    with pytest.raises(DatasetError, match="one window of 64 samples"):
        compute_statistics(tracks, 64, 16)
    for n_fft, hop in [(63, 16), (64, 0), (64, 65)]:
        with pytest.raises(UsageError):
            compute_statistics(tracks, n_fft, hop)
