"""`prepare`: whole tracks or none, reruns that do what is missing, nothing lost on the way.

One file: all of it is asked of the same two small tracks, by the same helper.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from folders import MUSDB, RATE, add_track

from stemsplit.audio import decode_blocks, parse_format
from stemsplit.datasets import Dataset, Validation, open_dataset, open_index
from stemsplit.datasets.activity import ActivityMeter
from stemsplit.datasets.decoding import Decoding, TrackDecoder
from stemsplit.datasets.prepare import PrepareOptions, TrackOutcome, prepare
from stemsplit.errors import DatasetError, OutputError, UsageError

EXCERPT = "stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"
FILES = ("mixture", "voice")
WAV = PrepareOptions(Decoding(parse_format("wav", 16)), jobs=2)


class Calls:
    """What `prepare` said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.outcomes: dict[str, TrackOutcome] = {}

    def run(
        self,
        root: Path,
        out: Path,
        options: PrepareOptions = WAV,
        on_outcome: Callable[[TrackOutcome], None] = lambda _: None,
    ) -> dict[str, str]:
        dataset = open_dataset(root, any_format=root != out, valid=Validation(standard=False))
        found = prepare(dataset, out, options, on_outcome=on_outcome, on_note=self.notes.append)
        self.outcomes = {outcome.track.name: outcome for outcome in found}
        return {name: outcome.status for name, outcome in self.outcomes.items()}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two short tracks of one stem in flac, with a mixture."""
    for seed, name in enumerate("AB"):
        add_track(tmp_path / "own" / name, FILES, suffix="flac", seed=seed)
    return tmp_path / "own"


def list_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, always_2d=True, dtype="float32")[0].T


def write(path: Path, samples: int, rate: int = RATE, channels: int = 2) -> None:
    noise = np.random.default_rng(5).uniform(-0.2, 0.2, (samples, channels))
    soundfile.write(path, noise, rate)


def test_musdb18_becomes_wav_that_musdb18_hq_readers_find(
    tmp_path: Path, distribution_file: Callable[[str, str], Path]
) -> None:
    excerpt = distribution_file("stempeg", EXCERPT)
    root = tmp_path / "musdb18"
    (root / "test").mkdir(parents=True)
    shutil.copy(excerpt, root / "test" / "A B.stem.mp4")
    out = tmp_path / "wav"
    options = replace(WAV, decoding=Decoding(parse_format("wav", 32)))
    assert Calls().run(root, out, options) == {"A B": "done"}
    stems = ("bass", "drums", "mixture", "other", "vocals")
    assert list_files(out) == ["index.json", *(f"test/A B/{stem}.wav" for stem in stems)]
    with decode_blocks(excerpt, stream=4) as blocks:
        vocals = np.concatenate([*blocks], axis=1)
    np.testing.assert_array_equal(read(out / "test" / "A B" / "vocals.wav"), vocals)
    index = open_index(open_dataset(out))
    assert index.notes == ()
    assert index.tracks["A B"].samples == vocals.shape[1]
    assert index.tracks["A B"].peaks["vocals"] == np.abs(vocals).max()
    meter = ActivityMeter(44100, 2)
    meter.feed(vocals)
    assert index.tracks["A B"].activity["vocals"] == tuple(meter.find_windows())


def test_a_rerun_does_what_is_missing_and_what_changed(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calls = Calls()
    assert set(calls.run(own, out).values()) == {"done"}
    assert set(calls.run(own, out).values()) == {"skipped"}
    write(own / "A" / "voice.flac", 400)
    add_track(own / "C", FILES, suffix="flac")
    assert calls.run(own, out) == {"A": "done", "B": "skipped", "C": "done"}
    np.testing.assert_array_equal(
        read(out / "train" / "A" / "voice.wav"), read(own / "A" / "voice.flac")
    )
    (out / "train" / "B" / "voice.wav").unlink()
    assert calls.run(own, out) == {"A": "skipped", "B": "done", "C": "skipped"}
    assert set(calls.run(own, out, replace(WAV, overwrite=True)).values()) == {"done"}
    assert open_index(open_dataset(out)).notes == ()


def test_a_result_that_lost_a_part_is_made_again(own: Path, tmp_path: Path) -> None:
    for stem in FILES:
        write(own / "A" / f"{stem}.flac", 200_000)
    out = tmp_path / "out"
    Calls().run(own, out)
    path = out / "train" / "A" / "voice.wav"
    whole, status = path.read_bytes(), path.stat()
    with path.open("r+b") as file:
        file.seek(200_000)
        file.write(bytes(20_000))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert Calls().run(own, out) == {"A": "done", "B": "skipped"}
    assert path.read_bytes() == whole
    os.utime(path, (1, 1))
    assert Calls().run(own, out) == {"A": "skipped", "B": "skipped"}
    assert open_index(open_dataset(out)).notes == (), "the new time is stored"


def test_other_parameters_make_everything_again(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Calls().run(own, out)
    for decoding in (
        Decoding(parse_format("wav", 24)),
        Decoding(parse_format("flac", 16)),
        Decoding(parse_format("flac", 16), 16000),
    ):
        assert set(Calls().run(own, out, replace(WAV, decoding=decoding)).values()) == {"done"}
    dataset = open_dataset(out)
    assert {file.path.suffix for t in dataset.tracks for file in t.stems.values()} == {".flac"}
    assert open_index(dataset).tracks["A"].sample_rate == 16000
    assert len(list_files(out)) == 1 + 2 * 2


def test_activity_is_added_without_decoding_again(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    Calls().run(own, out, replace(WAV, has_activity=False))
    assert not open_index(open_dataset(out)).tracks["A"].activity

    def refuse(self: TrackDecoder) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(TrackDecoder, "run", refuse)
    assert set(Calls().run(own, out).values()) == {"done"}
    assert open_index(open_dataset(out)).tracks["A"].activity == {"voice": ()}
    assert set(Calls().run(own, out).values()) == {"skipped"}


def test_a_track_that_moves_to_another_split_moves(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Calls().run(own, out)
    (own / "dataset.toml").write_text('test = ["A"]\nvalid = ["B"]\n')
    assert Calls().run(own, out) == {"A": "done", "B": "done"}
    places = {track.name: track.split for track in open_dataset(out).tracks}
    assert places == {"A": "test", "B": "valid"}
    assert list_files(out / "train") == []


def test_a_track_that_is_gone_stays_and_is_told(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Calls().run(own, out)
    shutil.rmtree(own / "B")
    calls = Calls()
    calls.run(own, out)
    assert any("not in the data set any more: B" in note for note in calls.notes)
    assert (out / "train" / "B" / "voice.wav").exists()


def test_one_broken_track_stops_no_other_and_leaves_nothing(own: Path, tmp_path: Path) -> None:
    (own / "B" / "voice.flac").write_bytes(b"\0" * 5000)
    out = tmp_path / "out"
    calls = Calls()
    assert calls.run(own, out) == {"A": "done", "B": "failed"}
    error = calls.outcomes["B"].error
    assert error is not None
    assert "voice.flac" in error.message
    assert not [name for name in list_files(out) if "B" in name or name.startswith("train/.")]
    write(own / "B" / "voice.flac", 400)
    assert calls.run(own, out) == {"A": "skipped", "B": "done"}


def test_a_damaged_file_fails_its_track(
    tmp_path: Path, distribution_file: Callable[[str, str], Path]
) -> None:
    whole = distribution_file("stempeg", EXCERPT).read_bytes()
    (tmp_path / "mus").mkdir()
    (tmp_path / "mus" / "A.stem.mp4").write_bytes(whole[:200_000])
    calls = Calls()
    assert calls.run(tmp_path / "mus", tmp_path / "out") == {"A": "failed"}
    assert isinstance(calls.outcomes["A"].error, DatasetError)
    assert "too short" in calls.outcomes["A"].error.message


def test_an_mp4_of_fewer_streams_fails_with_what_is_expected(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "mus"
    root.mkdir()
    # ffmpeg knows a file by what it holds: this one has a single stream.
    shutil.copy(own / "A" / "voice.flac", root / "A.stem.mp4")
    calls = Calls()
    assert calls.run(root, tmp_path / "out") == {"A": "failed"}
    assert "1 audio streams, and no stream 1 for drums" in str(calls.outcomes["A"].error)


def test_all_files_are_as_long_as_the_mixture(own: Path, tmp_path: Path) -> None:
    write(own / "A" / "mixture.flac", 6000)
    write(own / "A" / "voice.flac", 9000)
    write(own / "B" / "mixture.flac", 6000)
    write(own / "B" / "voice.flac", 5990)
    out = tmp_path / "out"
    calls = Calls()
    calls.run(own, out)
    long, short = read(out / "train/A/voice.wav"), read(out / "train/B/voice.wav")
    np.testing.assert_array_equal(long, read(own / "A/voice.flac")[:, :6000])
    np.testing.assert_array_equal(short[:, :5990], read(own / "B/voice.flac"))
    assert short.shape == (2, 6000)
    assert not short[:, 5990:].any()
    assert calls.outcomes["B"].notes == ()
    (note,) = calls.outcomes["A"].notes
    assert "voice: is 1.12 s long and was cut to the 0.75 s" in note


def test_without_a_mixture_the_longest_stem_counts(own: Path, tmp_path: Path) -> None:
    for name in "AB":
        (own / name / "mixture.flac").rename(own / name / "piano.flac")
    write(own / "A" / "voice.flac", 9000)
    out = tmp_path / "out"
    calls = Calls()
    calls.run(own, out)
    piano = read(out / "train/A/piano.wav")
    np.testing.assert_array_equal(piano[:, :400], read(own / "A/piano.flac"))
    assert piano.shape == (2, 9000)
    assert open_dataset(out).tracks[0].mixture is None
    assert "piano: is 0.05 s long and was continued with zeros" in calls.outcomes["A"].notes[0]


def test_mono_and_other_rates_are_brought_together(own: Path, tmp_path: Path) -> None:
    write(own / "A" / "voice.flac", 800, rate=2 * RATE, channels=1)
    out = tmp_path / "out"
    calls = Calls()
    calls.run(own, out)
    assert read(out / "train/A/voice.wav").shape == (2, 400)
    assert "8000 and 16000 Hz: all are brought to 8000 Hz" in calls.outcomes["A"].notes[0]
    assert open_index(open_dataset(out)).tracks["A"].channels == 2


def test_samples_beyond_full_scale_are_told_once(own: Path, tmp_path: Path) -> None:
    for name in "AB":
        loud = np.full((400, 2), 1.5)
        (own / name / "voice.flac").unlink()
        soundfile.write(own / name / "voice.wav", loud, RATE, subtype="FLOAT")
    calls = Calls()
    calls.run(own, tmp_path / "out")
    told = [note for note in calls.notes if "beyond full scale" in note]
    assert told == [
        "1600 samples beyond full scale are held there, in 2 of 2 tracks; --bits 32 keeps them"
    ]


def test_folders_of_others_are_not_replaced(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    add_track(out / "train" / "A", ("voice",))
    before = (out / "train" / "A" / "voice.wav").read_bytes()
    calls = Calls()
    assert calls.run(own, out)["A"] == "failed"
    assert isinstance(calls.outcomes["A"].error, OutputError)
    assert (out / "train" / "A" / "voice.wav").read_bytes() == before
    assert calls.run(own, out, replace(WAV, overwrite=True))["A"] == "done"


def test_being_stopped_leaves_whole_tracks_and_goes_on_later(own: Path, tmp_path: Path) -> None:
    for name in "CDEF":
        add_track(own / name, ("voice",), suffix="flac")
    out = tmp_path / "out"

    def stop(outcome: TrackOutcome) -> None:
        if outcome.status == "done":
            raise KeyboardInterrupt

    options = replace(WAV, jobs=1)
    statuses = Calls().run(own, out, options, stop)
    assert statuses["A"] == "done"
    assert "cancelled" in statuses.values()
    assert {"done", "cancelled"} >= set(statuses.values())
    done = {name for name, status in statuses.items() if status == "done"}
    assert {track.name for track in open_dataset(out).tracks} == done
    assert not [*(out / "train").glob(".*")]
    again = Calls().run(own, out, options)
    assert {name for name, status in again.items() if status == "skipped"} == done
    assert open_index(open_dataset(out)).notes == ()


def test_what_a_killed_run_left_behind_is_no_obstacle(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Calls().run(own, out)
    # Killed between the entry in the index and the last renaming: the folder is not there.
    folder = out / "train" / "A"
    table = json.loads((out / "index.json").read_text())
    assert "train/A/voice.wav" in table["files"]
    shutil.rmtree(folder)
    assert Calls().run(own, out)["A"] == "done"
    # Killed while decoding: only the unfinished folder is there.
    (out / "index.json").unlink()
    shutil.rmtree(out / "train")
    (out / "train" / ".0123.part").mkdir(parents=True)
    assert set(Calls().run(own, out).values()) == {"done"}


def test_a_data_set_that_can_be_searched_is_indexed_where_it_is(own: Path) -> None:
    before = {name: os.stat(own / name).st_mtime_ns for name in list_files(own)}
    calls = Calls()
    assert set(calls.run(own, own).values()) == {"done"}
    assert set(calls.run(own, own).values()) == {"skipped"}
    after = {name: os.stat(own / name).st_mtime_ns for name in list_files(own)}
    assert after.pop("index.json")
    assert after == before
    assert open_index(open_dataset(own)).tracks["A"].peaks


def test_statistics_are_stored_and_kept_while_they_fit(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = replace(WAV, statistics=((64, 16),))
    calls = Calls()
    calls.run(own, out, options)
    calls.run(own, out, replace(options, statistics=((32, 8),)))
    assert sum("describing" in note for note in calls.notes) == 2
    calls.run(own, out, options)
    assert sum("describing" in note for note in calls.notes) == 2
    found = open_index(open_dataset(out)).statistics
    assert [(one.n_fft, one.hop_length) for one in found] == [(64, 16), (32, 8)]
    write(own / "A" / "mixture.flac", 400)
    calls.run(own, out, options)
    assert [one.n_fft for one in open_index(open_dataset(out)).statistics] == [64]


def test_statistics_follow_the_training_tracks(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = replace(WAV, statistics=((64, 16),))
    Calls().run(own, out, options)
    (before,) = open_index(open_dataset(out)).statistics
    for name in FILES:
        write(own / "A" / f"{name}.flac", 9 * RATE)
    Calls().run(own, out, options)
    (after,) = open_index(open_dataset(out)).statistics
    assert after.fingerprint != before.fingerprint
    assert not np.allclose(after.mean, before.mean)


def test_different_rates_of_tracks_are_told(own: Path, tmp_path: Path) -> None:
    for stem in FILES:
        write(own / "A" / f"{stem}.flac", 400, rate=16000)
    calls = Calls()
    calls.run(own, tmp_path / "out")
    assert any("tracks have 8000 and 16000 Hz" in note for note in calls.notes)


def test_flac_needs_soundfile_before_anything_is_written(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError, match="soundfile"):
        Calls().run(
            own, tmp_path / "out", replace(WAV, decoding=Decoding(parse_format("flac", 16)))
        )
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to(own: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(OutputError, match="out' cannot be written"):
        Calls().run(own, tmp_path / "out")


def take_in_a_track(own: Path) -> tuple[Path, Path]:
    own.rename(own.with_name("train"))
    return own.with_name("train"), own.parent


def take_it_through_a_link(own: Path) -> tuple[Path, Path]:
    (own.parent / "out").mkdir()
    (own.parent / "out" / "train").symlink_to(own, target_is_directory=True)
    return own, own.parent / "out"


def take_links(own: Path) -> tuple[Path, Path]:
    real = own.rename(own.with_name("real"))
    for name in "AB":
        (own.parent / "train" / name).mkdir(parents=True)
        for path in (real / name).iterdir():
            (own.parent / "train" / name / path.name).symlink_to(path)
    return own.with_name("train"), own.parent


def take_what_was_prepared_before(own: Path) -> tuple[Path, Path]:
    out = own.with_name("out")
    Calls().run(own, out)
    (out / "train" / "dataset.toml").write_text('test = ["A", "B"]')
    return out / "train", out


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "take", [take_in_a_track, take_it_through_a_link, take_links, take_what_was_prepared_before]
)
def test_sources_are_never_replaced(
    own: Path, take: Callable[[Path], tuple[Path, Path]], overwrite: bool
) -> None:
    root, out = take(own)
    before = {path: path.stat() for path in root.parent.rglob("*")}
    with pytest.raises(UsageError, match="would be replaced, and holds") as caught:
        Calls().run(root, out, replace(WAV, overwrite=overwrite))
    assert "--overwrite" not in caught.value.help
    after = {path: path.stat() for path in root.parent.rglob("*")}
    assert {path: status.st_mtime_ns for path, status in after.items() if path.is_file()} == {
        path: status.st_mtime_ns for path, status in before.items() if path.is_file()
    }
    assert after.keys() == before.keys()


def test_one_run_in_a_folder_at_a_time(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    refused: list[UsageError] = []

    def run_again(outcome: TrackOutcome) -> None:
        with pytest.raises(UsageError, match=r"another `stemsplit prepare` is writing .*out") as it:
            Calls().run(own, out)
        refused.append(it.value)

    assert set(Calls().run(own, out, on_outcome=run_again).values()) == {"done"}
    assert len(refused) == 2
    assert set(Calls().run(own, out).values()) == {"skipped"}
    assert not [*out.rglob(".*")]


def test_stems_of_musdb_keep_their_order(tmp_path: Path) -> None:
    add_track(tmp_path / "in" / "test" / "A", MUSDB)
    Calls().run(tmp_path / "in", tmp_path / "out")
    dataset: Dataset = open_dataset(tmp_path / "out")
    assert dataset.stems == MUSDB
    assert dataset.tracks[0].split == "test"
