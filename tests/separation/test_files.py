from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from linear_model import GAINS, hash_tree, read_song, separate_song, write_song

from stemsplit.audio import parse_format
from stemsplit.separation import files
from stemsplit.separation.events import Event, Finished, Progress, Started
from stemsplit.separation.manifest import hash_file, read_manifest
from stemsplit.separation.tags import make_tags

LSB = 2.0**-23


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [44100, 22050])
def test_stems_are_written_with_their_manifest(channels: int, rate: int):
    mixture = write_song(Path("song.wav"), 2.5, rate=rate, channels=channels)
    events: list[Event] = []
    result = separate_song(on_event=events.append)
    assert result.status == "done"
    assert sorted(hash_tree("stems")) == [
        "stems/song/accompaniment.wav",
        "stems/song/stemsplit.json",
        "stems/song/vocals.wav",
    ]
    manifest = result.manifest
    assert read_manifest(Path("stems/song/stemsplit.json")) == manifest
    assert (manifest.samples, manifest.sample_rate) == (mixture.shape[1], rate)
    assert (manifest.channels, manifest.duration_s, manifest.gain) == (channels, 2.5, 1.0)
    for record in manifest.stems:
        path = Path("stems/song") / record.file
        assert (record.bytes, record.sha256) == (path.stat().st_size, hash_file(path))
        assert soundfile.info(path).subtype == "PCM_24"
        written = read_song(path)
        assert written.shape == mixture.shape
        if rate == 44100:
            assert np.abs(written - GAINS[record.stem] * mixture).max() <= LSB
        peak_db = 20 * np.log10(np.abs(written).max())
        assert record.peak_db == pytest.approx(peak_db, abs=0.01)
        assert record.loudness_lufs is not None
        assert record.clipped_samples == 0
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert [type(event) for event in events[1:-1]] == [Progress] * (len(events) - 2)


def test_finished_is_said_when_the_files_are_there():
    write_song(Path("song.wav"), 0.5)
    there: list[bool] = []
    separate_song(on_event=lambda e: there.append(Path("stems/song/stemsplit.json").exists()))
    assert there[-1]
    assert not any(there[:-1])


def test_two_runs_write_the_same_bytes():
    write_song(Path("song.wav"))
    for format in ("wav", "flac"):
        separate_song(out_dir=Path("a"), format=parse_format(format), clip="rescale")
        separate_song(out_dir=Path("b"), format=parse_format(format), clip="rescale")
        first, second = hash_tree("a"), hash_tree("b")
        assert list(first.values()) == list(second.values())


@pytest.mark.parametrize("seconds", [0.01, 0.1, 1.0])
def test_songs_shorter_than_anything(seconds: float):
    mixture = write_song(Path("song.wav"), seconds)
    result = separate_song()
    assert result.manifest.samples == mixture.shape[1]
    assert [record.loudness_lufs is None for record in result.manifest.stems] == [seconds < 0.4] * 2


def test_silence_has_no_levels():
    soundfile.write("song.wav", np.zeros((44100, 2), np.float32), 44100)
    for record in separate_song().manifest.stems:
        assert (record.peak_db, record.loudness_lufs, record.clipped_samples) == (None, None, 0)


def test_titles_get_the_stems_name():
    song = {"TITLE": "Song", "artist": "A", "Album": "B"}
    assert make_tags(song, "x", "vocals") == {"title": "Song (vocals)", "artist": "A", "album": "B"}
    assert make_tags(song, "x")["title"] == "Song"
    assert make_tags({}, "x", "vocals") == {"title": "x (vocals)"}
    assert make_tags({"title": "  "}, "x") == {"title": "x"}


def test_tags_reach_the_files():
    with soundfile.SoundFile("song.flac", "w", 44100, 2) as file:
        file.title, file.artist = "Étude 🎹", "Someone"
        file.write(np.zeros((44100, 2), np.float32))
    result = separate_song("song.flac", format=parse_format("flac"))
    with soundfile.SoundFile(result.job.outputs["vocals"]) as file:
        assert file.title == "Étude 🎹 (vocals)"


def test_a_stem_mp4_is_written_beside_and_counts_as_an_output():
    write_song(Path("song.wav"), 1.0)
    result = separate_song(stem_mp4=True)
    mp4 = Path("stems/song/song.stem.mp4")
    assert result.manifest.stem_mp4 is not None
    assert result.manifest.stem_mp4.sha256 == hash_file(mp4)
    assert separate_song(stem_mp4=True).status == "skipped"
    mp4.unlink()
    assert separate_song(stem_mp4=True).status == "done"
    assert mp4.exists()
    assert not list(Path("stems").rglob("mixture*"))


def test_the_mixture_of_a_stem_mp4_is_what_was_separated(monkeypatch: pytest.MonkeyPatch):
    mixture = write_song(Path("song.wav"), 2.0, peak=2.0)
    seen: dict[str, np.ndarray] = {}

    def fake(path: Path, mixture_path: Path, stem_paths: Any, **rest: Any) -> None:
        seen["mixture"] = read_song(mixture_path)
        seen.update((stem, read_song(path)) for stem, path in stem_paths)
        path.write_bytes(b"mp4")

    monkeypatch.setattr(files, "write_stem_mp4", fake)
    result = separate_song(
        stem_mp4=True, clip="rescale", separator={"start_s": 0.5, "duration_s": 1.0}
    )
    cut = mixture[:, 22050:66150]
    assert np.abs(seen["mixture"] - result.manifest.gain * cut).max() < 1e-6
    assert np.abs(seen["vocals"] - 0.3 * seen["mixture"]).max() < 3 * LSB


def test_a_manifest_is_plain_json():
    write_song(Path("song.wav"))
    result = separate_song()
    data = json.loads(result.job.manifest.read_text("utf-8"))
    assert data["recipe"]["model"] == "linear"
    assert data["recipe"]["weights_sha256"] == "linear"
    assert data["recipe"]["options"]["shifts"] == 0
    assert data["source"]["name"] == "song.wav"
    assert set(data["versions"]) == {"stemsplit", "torch", "ffmpeg"}
