from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from linear_model import GAINS, read_song, separate_song, write_song

from stemsplit.audio import parse_format
from stemsplit.errors import (
    UnknownNameError,
)
from stemsplit.separation.events import Event, Notice
from stemsplit.separation.files import FileOptions
from stemsplit.separation.levels import LevelMeter, choose_gain
from stemsplit.separation.manifest import hash_file

LSB = 2.0**-23


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("peak", [1e-3, 0.5, 1.0])
def test_with_the_residual_the_stems_sum_to_the_mixture(peak: float):
    mixture = write_song(Path("song.wav"), peak=peak)
    result = separate_song(separator={"residual": True})
    stems = [read_song(path) for path in result.job.outputs.values()]
    assert len(stems) == 3
    assert np.abs(sum(stems) - mixture).max() <= 3 * 0.5 * LSB + 1e-7


def test_two_stems_are_the_stem_and_the_rest():
    mixture = write_song(Path("song.wav"))
    result = separate_song(separator={"two_stems": "vocals"})
    assert list(result.job.outputs) == ["vocals", "no_vocals"]
    assert (
        np.abs(sum(read_song(path) for path in result.job.outputs.values()) - mixture).max() <= LSB
    )


def test_beyond_full_scale_integers_saturate_and_it_is_said():
    mixture = write_song(Path("song.wav"), peak=2.0)
    notices: list[Event] = []
    result = separate_song(on_event=notices.append)
    over = int(np.count_nonzero(np.abs(mixture * np.float32(0.65)) > 1))
    vocals, accompaniment = result.manifest.stems
    assert (vocals.clipped_samples, accompaniment.clipped_samples) == (0, over)
    assert accompaniment.peak_db == pytest.approx(20 * np.log10(1.3), abs=0.01)
    (said,) = [event.message for event in notices if isinstance(event, Notice)]
    assert said == result.manifest.notices[0]
    assert f"accompaniment ({over} samples, peak +2.28 dBFS)" in said
    assert "--clip rescale" in said
    assert "--bits 32" in said
    assert "vocals" not in said
    written = read_song(result.job.outputs["accompaniment"])
    assert written.max() == 1 - LSB
    assert written.min() == -1


def test_floats_are_written_as_they_are():
    mixture = write_song(Path("song.wav"), peak=1e3)
    result = separate_song(format=parse_format("wav", bits=32))
    assert result.manifest.notices == ()
    assert [record.clipped_samples for record in result.manifest.stems] == [0, 0]
    written = read_song(result.job.outputs["accompaniment"])
    assert np.array_equal(written, mixture * np.float32(0.65))


def test_clamp_limits_floats_too():
    mixture = write_song(Path("song.wav"), peak=2.0)
    result = separate_song(format=parse_format("wav", bits=32), clip="clamp")
    written = read_song(result.job.outputs["accompaniment"])
    assert np.array_equal(written, (mixture * np.float32(0.65)).clip(-1, 1))
    assert result.manifest.stems[1].clipped_samples > 0
    assert "--clip clamp" in result.manifest.notices[0]


@pytest.mark.parametrize("bits", [24, 32])
def test_rescale_is_one_gain_for_all_stems(bits: int):
    mixture = write_song(Path("song.wav"), peak=2.0)
    result = separate_song(
        format=parse_format("wav", bits=bits), clip="rescale", separator={"residual": True}
    )
    gain = result.manifest.gain
    assert gain == pytest.approx(1 / (2.0 * 0.65), rel=1e-6)
    assert result.manifest.gain_db == pytest.approx(-2.28, abs=0.01)
    stems = {stem: read_song(path) for stem, path in result.job.outputs.items()}
    assert np.abs(stems["accompaniment"]).max() == pytest.approx(1, abs=2 * LSB)
    for stem, share in GAINS.items():
        assert np.abs(stems[stem] - gain * share * mixture).max() < 3 * LSB
    assert np.abs(sum(stems.values()) - gain * mixture).max() < 6 * LSB
    assert "2.28 dB quieter" in result.manifest.notices[0]
    assert [record.clipped_samples for record in result.manifest.stems] == [0, 0, 0]
    assert result.manifest.stems[1].peak_db == pytest.approx(0, abs=0.01)


def test_rescale_touches_nothing_that_fits():
    write_song(Path("song.wav"), peak=1.0)
    plain = separate_song(out_dir=Path("plain"))
    result = separate_song(clip="rescale")
    assert (result.manifest.gain, result.manifest.notices) == (1.0, ())
    for stem, path in result.job.outputs.items():
        assert hash_file(path) == hash_file(plain.job.outputs[stem])
    ours, theirs = result.manifest.stems, plain.manifest.stems
    assert [stem.loudness_lufs for stem in ours] == [stem.loudness_lufs for stem in theirs]


def test_rescaled_loudness_is_that_of_the_file():
    write_song(Path("song.wav"), peak=3.0)
    record = separate_song(clip="rescale").manifest.stems[0]
    meter = LevelMeter(44100, 2)
    meter.feed(read_song(Path("stems/song") / record.file).astype(np.float32))
    assert record.loudness_lufs == pytest.approx(meter.loudness_lufs(), abs=0.02)
    assert record.peak_db == pytest.approx(meter.peak_db(), abs=0.01)


@pytest.mark.parametrize("peak", [1.0000001, 1.1, 1.3, 2.0, 3.3333333, 1e3, 1e30])
def test_the_common_gain_never_leaves_anything_beyond_full_scale(peak: float):
    gain = np.float32(choose_gain(float(np.float32(peak))))
    product = np.float32(peak) * gain
    assert product <= 1
    assert product > 1 - 3e-7


@pytest.mark.parametrize("peak", [0.0, 1e-3, 1.0])
def test_no_gain_where_none_is_needed(peak: float):
    assert choose_gain(peak) == 1.0


def test_an_unknown_clip_mode_is_named():
    with pytest.raises(UnknownNameError, match="rescail"):
        FileOptions(clip="rescail")  # type: ignore[arg-type]  # that is the point
