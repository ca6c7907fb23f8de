from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from music import STEMS, make_recipe, write_songs
from torch import Tensor

from stemsplit.datasets import Index, Track, TrackIndex, open_dataset, open_index
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.training.validation import Validator, place_excerpts


class Halves(OpenUnmix):
    """Gives every stem half of the mixture."""

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack((mixture / 2, mixture / 2), dim=1)

    def estimate(self, outputs: object, mixture: Tensor) -> Tensor:
        return torch.stack((mixture / 2, mixture / 2), dim=1)


@pytest.mark.parametrize(
    ("samples", "per_track", "starts"),
    [
        (100, 0, [0, 30, 60]),
        (100, 2, [0, 70]),
        (100, 3, [0, 30, 60]),
        (100, 9, [0, 30, 60]),
        (30, 0, [0]),
        (10, 5, [0]),
        (100, 1, [0]),
    ],
)
def test_excerpts_lie_side_by_side_or_evenly_spread(
    samples: int, per_track: int, starts: list[int]
) -> None:
    track = Track("song", "valid", {})
    index = Index({"song": TrackIndex(samples, 44100, 2, {}, {})})
    placed = place_excerpts([track], index, 30, per_track)
    assert [excerpt.start for excerpt in placed] == starts
    assert {excerpt.count for excerpt in placed} == {30}


def make_validator(
    songs: Path, *, peak_normalise: bool = False, **validation: object
) -> tuple[Validator, Halves]:
    dataset = open_dataset(songs, stems=STEMS)
    recipe = make_recipe(
        "open-unmix",
        validation=dict(validation),
        # Of these, only the first is for excerpts that judge, too.
        augment={"peak_normalise": peak_normalise, "gain_low": 0.1, "silence_p": 0.5},
    )
    valid = dataset.select("valid")
    validator = Validator(recipe, valid, open_index(dataset), dataset.stems, 22050)
    return validator, Halves(OpenUnmixConfig.tiny(STEMS)).eval()


def read_stems(songs: Path) -> Tensor:
    folder = songs / "valid/valid 0"
    samples = [soundfile.read(folder / f"{stem}.wav", dtype="float32")[0].T for stem in STEMS]
    return torch.stack([torch.from_numpy(one) for one in samples])


def test_the_loss_is_the_mean_over_all_excerpts(songs: Path) -> None:
    validator, model = make_validator(songs, excerpts=0, terms=["waveform_l1"])
    stems = read_stems(songs)[..., : 4 * 22050]
    expected = (stems - stems.sum(dim=0) / 2).abs().mean()
    found = validator.measure_loss(model, 0, 1, lambda: None)
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_excerpts_have_the_level_of_those_that_are_learned_from(songs: Path) -> None:
    settings = {"excerpts": 0, "terms": ["waveform_l1"]}
    validator, model = make_validator(songs, peak_normalise=True, **settings)
    excerpts = read_stems(songs)[..., : 4 * 22050].unflatten(-1, (4, 22050)).permute(2, 0, 1, 3)
    peaks = torch.stack(
        [torch.cat((one, one.sum(0, keepdim=True))).abs().max() for one in excerpts]
    )
    assert (peaks - 1).abs().max() > 0.05
    excerpts = excerpts / peaks[:, None, None, None]
    expected = (excerpts - excerpts.sum(dim=1, keepdim=True) / 2).abs().mean()
    found = validator.measure_loss(model, 0, 1, lambda: None)
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_whole_tracks_are_separated_from_the_mixture_that_was_published(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, train=1, valid=1, seconds=1.0)
    validator, model = make_validator(songs, tracks=-1)
    stems = read_stems(songs)
    mixture = stems.sum(dim=0)
    scores = validator.score(model, 0, 1, lambda: None)
    for stem, true in zip(STEMS, stems, strict=True):
        ratio = true.square().sum() / (true - mixture / 2).square().sum()
        assert scores[stem] == pytest.approx(float(10 * ratio.log10()), abs=0.01)
    # A published mixture of silence: the estimates are silent, and nothing is gained or lost.
    soundfile.write(tmp_path / "valid/valid 0/mixture.wav", 0 * mixture.T.numpy(), 44100)
    validator, model = make_validator(songs, tracks=-1)
    assert validator.score(model, 0, 1, lambda: None) == pytest.approx(dict.fromkeys(STEMS, 0.0))


def test_what_is_asked_meanwhile_may_end_it(songs: Path) -> None:
    validator, model = make_validator(songs, tracks=-1, excerpts=0)

    def stop() -> None:
        raise KeyboardInterrupt

    for work in (validator.measure_loss, validator.score):
        with pytest.raises(KeyboardInterrupt):
            work(model, 0, 1, stop)
