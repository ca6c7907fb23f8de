"""One track: references, lengths, what is derived, and museval's numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_songs import RATE, SAMPLES, STEMS, make_stems, spoil, write_track
from torch import Tensor

from stemsplit.datasets.track import AudioFile, Track
from stemsplit.errors import AudioError, UsageError
from stemsplit.evaluation import ScoreOptions, bss_eval, score_track, usdr
from stemsplit.evaluation.references import References, read_references

TWO = ("bass", "vocals")


def make_track(folder: Path, names: tuple[str, ...] = STEMS, mixture: bool = True) -> Track:
    files = {stem: AudioFile(folder / f"{stem}.wav") for stem in names}
    whole = AudioFile(folder / "mixture.wav") if mixture else None
    return Track("a song", "test", files, whole)


def as_tensors(stems: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {stem: torch.from_numpy(samples.T.astype(np.float32)) for stem, samples in stems.items()}


def make_references(names: tuple[str, ...] = STEMS) -> References:
    stems = as_tensors(make_stems(0, names))
    return References(stems, torch.stack([*stems.values()]).sum(dim=0), RATE)


def test_the_files_are_read(tmp_path: Path) -> None:
    stems = make_stems(0)
    write_track(tmp_path, {**stems, "mixture": 0.5 * sum(stems.values())})
    references = read_references(make_track(tmp_path))
    assert references.sample_rate == RATE
    assert references.notes == ()
    for stem, samples in as_tensors(stems).items():
        assert torch.equal(references.stems[stem], samples), stem
    expected = as_tensors({"mixture": 0.5 * sum(stems.values())})["mixture"]
    torch.testing.assert_close(references.mixture, expected, rtol=0, atol=2**-16)
    three = [references.stems[stem] for stem in STEMS[:3]]
    torch.testing.assert_close(references.find("accompaniment"), sum(three))
    rest = [references.stems[stem] for stem in ("bass", "other", "vocals")]
    torch.testing.assert_close(references.find("no_drums"), sum(rest))


def test_without_a_mixture_it_is_the_sum(tmp_path: Path) -> None:
    stems = make_stems(0, TWO)
    write_track(tmp_path, stems)
    references = read_references(make_track(tmp_path, TWO, mixture=False))
    torch.testing.assert_close(references.mixture, sum(as_tensors(stems).values()))


def test_true_stems_are_in_16_bits_as_musdb_has_them(tmp_path: Path) -> None:
    samples = np.array([[0.3 / 2**15], [0.7 / 2**15], [1.5], [-1.5], [0.25]])
    write_track(tmp_path, {"vocals": samples, "mixture": samples})
    references = read_references(make_track(tmp_path, ("vocals",)))
    expected = torch.tensor([[0, 1, 2**15 - 1, -(2**15), 2**13]]) / 2**15
    assert torch.equal(references.stems["vocals"], expected)
    held = "2 samples beyond full scale are held there, as in musdb"
    assert references.notes == (f"the true vocals: {held}", f"the mixture: {held}")


@pytest.mark.parametrize("change", [-300, 300])
def test_a_little_length_is_mended_and_noted(tmp_path: Path, change: int) -> None:
    stems = make_stems(0, TWO)
    write_track(tmp_path, {**stems, "mixture": sum(stems.values())})
    bass = stems["bass"][:change] if change < 0 else np.pad(stems["bass"], ((0, change), (0, 0)))
    soundfile.write(tmp_path / "bass.wav", bass, RATE, subtype="FLOAT")
    references = read_references(make_track(tmp_path, TWO))
    assert references.stems["bass"].shape == (1, SAMPLES)
    verb = "padded" if change < 0 else "cut"
    assert references.notes == (f"the true bass: {verb} by 300 samples",)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros((SAMPLES - 500, 1)), RATE, "0.12 s shorter than the track of 2.00 s"),
        (np.zeros((SAMPLES + 500, 1)), RATE, "0.12 s longer"),
        (np.zeros((SAMPLES, 1)), RATE + 1, "has 4001 Hz and the track 4000 Hz"),
        (np.zeros((SAMPLES, 2)), RATE, "has 2 channels and the track 1 channel"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, samples: np.ndarray, rate: int, words: str) -> None:
    stems = make_stems(0, TWO)
    write_track(tmp_path, {**stems, "mixture": sum(stems.values())})
    soundfile.write(tmp_path / "bass.wav", samples, rate)
    with pytest.raises(AudioError, match=words) as caught:
        read_references(make_track(tmp_path, TWO))
    assert "true bass" in caught.value.message


def test_four_stems_and_what_the_vocals_leave() -> None:
    references = make_references()
    heard = as_tensors(spoil(make_stems(0)))
    scores = score_track(references, heard, ScoreOptions(si_sdr=True))
    assert [stem.stem for stem in scores] == [*STEMS, "accompaniment"]
    together = bss_eval(
        torch.stack([*references.stems.values()]),
        torch.stack([*heard.values()]),
        window=RATE,
        hop=RATE,
    )
    for row, stem in enumerate(scores[:4]):
        assert stem.scored_with == STEMS
        assert stem.frames["SIR"] == pytest.approx(together.sir[row].tolist(), abs=1e-5)
        assert stem.frames["SDR"] == pytest.approx(together.sdr[row].tolist(), abs=1e-5)
    rest = references.mixture - heard["vocals"]
    expected = usdr(references.find("accompaniment"), rest)
    assert scores[4].whole["uSDR"] == pytest.approx(expected, abs=1e-5)
    assert scores[4].scored_with == ("vocals", "accompaniment")
    assert set(scores[0].whole) == {"uSDR", "SI-SDR"}


def test_the_window_is_cut_to_samples_as_museval_does() -> None:
    references = make_references(("vocals", "drums"))
    heard = as_tensors(spoil(make_stems(0, ("vocals", "drums"))))
    scores = score_track(references, heard, ScoreOptions(window_s=0.5, hop_s=0.25))
    assert len(scores[0].frames["SDR"]) == 7
    whole = score_track(references, heard, ScoreOptions(window_s=9, hop_s=9))
    assert len(whole[0].frames["SDR"]) == 1, "a track shorter than a frame is one"


def test_a_stem_that_is_silent_throughout_leaves_the_others_theirs() -> None:
    three = ("vocals", "drums", "bass")
    references = make_references(three)
    heard = as_tensors(spoil(make_stems(0, three)))
    silent = {**references.stems, "drums": torch.zeros(1, SAMPLES)}
    quiet = References(silent, references.stems["vocals"], RATE)
    notes: list[str] = []
    found = score_track(quiet, heard, ScoreOptions(stems=three), notes=notes)
    assert notes == ["drums is silent throughout: it has no SDR, and the others are scored"]
    scores = {stem.stem: stem for stem in found}
    assert scores["vocals"].scored_with == ("vocals", "bass")
    assert math.isfinite(scores["vocals"].of_track("SIR"))
    assert math.isnan(scores["drums"].of_track("SDR"))
    assert scores["drums"].whole["uSDR"] < -50
    nothing = References(dict.fromkeys(three, torch.zeros(1, SAMPLES)), references.mixture, RATE)
    found = score_track(nothing, heard, ScoreOptions(stems=three))
    assert all(math.isnan(stem.of_track("SAR")) for stem in found)


def test_a_silent_estimate_is_said() -> None:
    references = make_references(TWO)
    heard = {**references.stems, "bass": torch.zeros(1, SAMPLES)}
    notes: list[str] = []
    scores = score_track(references, heard, ScoreOptions(stems=TWO), notes=notes)
    assert notes == ["the estimate of bass is silent: no frame has a score"]
    assert all(math.isnan(stem.of_track("SDR")) for stem in scores)


def test_equal_stems() -> None:
    references = make_references(TWO)
    heard = as_tensors(spoil(make_stems(0, TWO)))
    same = dict.fromkeys(references.stems, references.stems["vocals"])
    equal = References(same, 2 * references.stems["vocals"], RATE)
    scores = {stem.stem: stem for stem in score_track(equal, heard, ScoreOptions(stems=TWO))}
    assert math.isfinite(scores["vocals"].of_track("SDR"))
    assert scores["vocals"].frames["SDR"] != scores["bass"].frames["SDR"]


def test_one_stem_is_scored_beside_the_rest() -> None:
    references = make_references()
    heard = {"bass": as_tensors(spoil(make_stems(0)))["bass"]}
    (scores,) = score_track(references, heard, ScoreOptions())
    assert scores.scored_with == ("bass", "no_bass")
    assert math.isfinite(scores.of_track("SIR"))


def test_a_track_of_one_stem_and_nothing_else() -> None:
    references = make_references(("vocals",))
    heard = as_tensors(spoil(make_stems(0)))
    (scores,) = score_track(references, {"vocals": heard["vocals"]}, ScoreOptions())
    assert scores.scored_with == ("vocals",)
    assert math.isfinite(scores.of_track("SDR"))


def test_nothing_to_score() -> None:
    with pytest.raises(AudioError, match="of piano none is a stem"):
        score_track(make_references(), {"piano": torch.zeros(1, SAMPLES)}, ScoreOptions())


def test_an_estimate_of_no_numbers() -> None:
    heard = as_tensors(spoil(make_stems(0)))
    heard["other"][0, 5] = torch.nan
    with pytest.raises(AudioError, match="estimate of other holds values that are not numbers"):
        score_track(make_references(), heard, ScoreOptions())


@pytest.mark.parametrize("values", [{"window_s": 0}, {"hop_s": -1}, {"window_s": math.nan}])
def test_sizes_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="not possible"):
        ScoreOptions(**values)  # type: ignore[arg-type]  # numbers all
