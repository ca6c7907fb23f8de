from __future__ import annotations

import multiprocessing
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.datasets.excerpts import FileInfo, read_excerpt, read_info
from stemsplit.datasets.track import AudioFile
from stemsplit.errors import DatasetError, UsageError

KINDS = [
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("wav", "PCM_32"),
    ("wav", "PCM_U8"),
    ("wav", "DOUBLE"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
]
LENGTH = 10_000


def write(folder: Path, suffix: str, subtype: str, channels: int) -> tuple[AudioFile, np.ndarray]:
    path = folder / f"stem.{suffix}"
    noise = np.random.default_rng(0).uniform(-1, 1, (LENGTH, channels))
    noise[0], noise[-1] = -1.0, 1.0
    soundfile.write(path, noise, 44100, subtype=subtype)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return AudioFile(path), whole.T


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("suffix", "subtype"), KINDS)
def test_excerpts_are_exact_to_the_sample(
    tmp_path: Path, suffix: str, subtype: str, channels: int
) -> None:
    file, whole = write(tmp_path, suffix, subtype, channels)
    assert read_info(file) == FileInfo(LENGTH, 44100, channels)
    for start, count in [(0, LENGTH), (0, 1), (1, 1), (4567, 2345), (LENGTH - 1, 1), (9, 0)]:
        excerpt = read_excerpt(file, start, count)
        assert excerpt.dtype == np.float32
        assert excerpt.flags.c_contiguous
        assert excerpt.flags.writeable
        np.testing.assert_array_equal(excerpt, whole[:, start : start + count])


@pytest.mark.parametrize(("suffix", "subtype"), KINDS[::3] + KINDS[-1:])
def test_past_the_end_there_are_zeros(tmp_path: Path, suffix: str, subtype: str) -> None:
    file, whole = write(tmp_path, suffix, subtype, 2)
    across = read_excerpt(file, LENGTH - 5, 20)
    np.testing.assert_array_equal(across[:, :5], whole[:, -5:])
    np.testing.assert_array_equal(across[:, 5:], np.zeros((2, 15)))
    for start in (LENGTH, LENGTH + 7):
        np.testing.assert_array_equal(read_excerpt(file, start, 3), np.zeros((2, 3)))


def test_a_file_that_was_cut_off_is_as_long_as_what_is_there(tmp_path: Path) -> None:
    file, whole = write(tmp_path, "wav", "PCM_16", 2)
    data = file.path.read_bytes()
    file.path.write_bytes(data[:-4001])
    assert read_info(file).samples == LENGTH - 1001
    excerpt = read_excerpt(file, LENGTH - 1010, 20)
    np.testing.assert_array_equal(excerpt[:, :9], whole[:, LENGTH - 1010 : LENGTH - 1001])
    assert not excerpt[:, 9:].any()


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    file, _ = write(tmp_path, "wav", "PCM_16", 2)
    read_excerpt(file, 0, 5)
    soundfile.write(file.path, np.full((50, 1), 0.5), 8000, subtype="PCM_16")
    assert read_info(file) == FileInfo(50, 8000, 1)
    np.testing.assert_array_equal(read_excerpt(file, 48, 3), [[0.5, 0.5, 0.0]])


def test_what_stands_behind_the_samples_is_no_sound(tmp_path: Path) -> None:
    file, whole = write(tmp_path, "wav", "PCM_16", 1)
    with file.path.open("ab") as opened:
        opened.write(b"LIST\x04\0\0\0INFO" * 100)
    np.testing.assert_array_equal(read_excerpt(file, LENGTH - 3, 3), whole[:, -3:])
    assert not read_excerpt(file, LENGTH, 100).any()


def test_threads_read_one_file_at_once(tmp_path: Path) -> None:
    file, whole = write(tmp_path, "flac", "PCM_16", 2)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, LENGTH - 100, 50):
            if not np.array_equal(read_excerpt(file, int(start), 100), whole[:, start:][:, :100]):
                wrong.append(int(start))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def sum_of(file: AudioFile, start: int) -> float:
    return float(read_excerpt(file, start, 100).sum())


def test_other_processes_read_the_same(tmp_path: Path) -> None:
    file, _ = write(tmp_path, "flac", "PCM_16", 2)
    asked = [(file, 7), (file, 4000)]
    here = [sum_of(*one) for one in asked]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(sum_of, asked) == here


def test_other_formats_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="only wav and flac") as caught:
        read_excerpt(AudioFile(tmp_path / "a.stem.mp4", 4), 0, 10)
    assert "stemsplit prepare" in caught.value.help


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_files_that_are_gone_or_no_sound_are_told(tmp_path: Path, name: str) -> None:
    file = AudioFile(tmp_path / name)
    with pytest.raises(DatasetError, match="no file"):
        read_excerpt(file, 0, 10)
    file.path.write_bytes(b"no sound at all")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_info(file)


def test_flac_without_soundfile_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = write(tmp_path, "flac", "PCM_16", 2)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError) as caught:
        read_excerpt(file, 0, 10)
    assert 'pip install "stemsplit[train]"' in caught.value.help


def test_wav_needs_no_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, whole = write(tmp_path, "wav", "PCM_24", 2)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    np.testing.assert_array_equal(read_excerpt(file, 5, 10), whole[:, 5:15])


def test_no_excerpt_begins_before_the_file(tmp_path: Path) -> None:
    file, _ = write(tmp_path, "wav", "PCM_16", 2)
    with pytest.raises(ValueError, match="start -1"):
        read_excerpt(file, -1, 10)
