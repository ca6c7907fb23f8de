"""The Wiener filter against norbert in double precision, and at its limits."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor

from stemsplit.dsp.rank_one_wiener import RankOneWiener
from stemsplit.dsp.wiener import Wiener


def make_scene(
    stems: int = 3, channels: int = 2, frames: int = 40, bins: int = 33, amplitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return magnitudes (S, C, F, N) and a mixture (C, F, N) that they roughly explain."""
    dice = torch.Generator().manual_seed(stems * 100 + channels)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.complex128, generator=dice)

    power = torch.rand(stems, 1, bins, frames, dtype=torch.float64, generator=dice).square() * 30
    sources = draw(stems, channels, bins, 1) * power * draw(stems, 1, bins, frames)
    mixture = amplitude * (sources.sum(dim=0) + 0.1 * draw(channels, bins, frames))
    noise = torch.rand(sources.shape, dtype=torch.float64, generator=dice)
    return amplitude * sources.abs() * (0.5 + noise), mixture


def run_norbert(
    norbert: types.ModuleType, magnitudes: Tensor, mixture: Tensor, iterations: int, softmask: bool
) -> Tensor:
    filtered = norbert.wiener(
        magnitudes.permute(3, 2, 1, 0).numpy(),
        mixture.permute(2, 1, 0).numpy().copy(),  # norbert scales it in place
        iterations=iterations,
        use_softmask=softmask,
    )
    return torch.from_numpy(filtered).permute(3, 2, 1, 0)


def with_phase(magnitudes: Tensor, mixture: Tensor) -> Tensor:
    return torch.polar(magnitudes, mixture.angle().expand_as(magnitudes))


@pytest.mark.parametrize("iterations", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("amplitude", [1e-3, 1.0, 1e3])
def test_agreement_with_norbert(
    norbert: types.ModuleType, iterations: int, channels: int, softmask: bool, amplitude: float
) -> None:
    magnitudes, mixture = make_scene(channels=channels, amplitude=amplitude)
    expected = run_norbert(norbert, magnitudes, mixture, iterations, softmask)
    estimates = with_phase(magnitudes, mixture)
    got = Wiener(iterations, eps=None, softmask=softmask)(estimates[None], mixture[None])[0]
    # Inverses of nearly singular covariances amplify rounding; four digits more than is asked for.
    assert (got - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("stems", [1, 2, 5])
def test_any_number_of_stems(norbert: types.ModuleType, stems: int) -> None:
    magnitudes, mixture = make_scene(stems=stems)
    expected = run_norbert(norbert, magnitudes, mixture, 2, False)
    got = Wiener(2, eps=None)(with_phase(magnitudes, mixture)[None], mixture[None])[0]
    assert (got - expected).norm() < 1e-8 * expected.norm()


def test_windows_have_statistics_of_their_own() -> None:
    magnitudes, mixture = make_scene(frames=70)
    estimates = with_phase(magnitudes, mixture)[None]
    mixture = mixture[None]
    windowed = Wiener(2, window_frames=30)(estimates, mixture)
    for start, end in ((0, 30), (30, 60), (60, 70)):
        alone = Wiener(2)(estimates[..., start:end], mixture[..., start:end])
        assert torch.equal(windowed[..., start:end], alone)
    assert not torch.allclose(windowed, Wiener(2)(estimates, mixture))


def test_items_of_a_batch_do_not_touch() -> None:
    scenes = [make_scene(amplitude=amplitude) for amplitude in (1e-3, 1.0, 50.0)]
    estimates = torch.stack([with_phase(*scene) for scene in scenes])
    mixture = torch.stack([scene[1] for scene in scenes])
    batch = Wiener(1)(estimates, mixture)
    for item in range(3):
        alone = Wiener(1)(estimates[item : item + 1], mixture[item : item + 1])
        torch.testing.assert_close(batch[item : item + 1], alone)


def test_the_residual_is_one_more_stem() -> None:
    magnitudes, mixture = make_scene()
    estimates = with_phase(magnitudes, mixture)[None]
    untouched = Wiener(0, residual=True)(estimates, mixture[None])
    assert untouched.shape[1] == 4
    torch.testing.assert_close(untouched.sum(dim=1), mixture[None])
    filtered = Wiener(1, residual=True)(estimates, mixture[None])
    rest = mixture[None, None] - estimates.sum(dim=1, keepdim=True)
    torch.testing.assert_close(
        filtered, Wiener(1)(torch.cat((estimates, rest), dim=1), mixture[None])
    )


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_stems_share_the_whole_mixture(dtype: torch.dtype) -> None:
    magnitudes, mixture = make_scene()
    estimates = with_phase(magnitudes, mixture)[None].to(dtype)
    mixture = mixture[None].to(dtype)
    filtered = Wiener(1)(estimates, mixture)
    assert filtered.dtype == dtype
    error = (filtered.sum(dim=1) - mixture).norm() / mixture.norm()
    assert error < 1e-3


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_silence_gives_silence(dtype: torch.dtype) -> None:
    estimates = torch.zeros(1, 3, 2, 9, 20, dtype=dtype)
    assert not Wiener(2)(estimates, estimates[:, 0]).any()
    magnitudes, mixture = make_scene()
    estimates = with_phase(magnitudes, mixture)[None].to(dtype)
    estimates[:, 1] = 0
    filtered = Wiener(2)(estimates, mixture[None].to(dtype))
    assert torch.isfinite(torch.view_as_real(filtered)).all()
    assert not filtered[:, 1].any()


def test_a_mono_song_in_single_precision_stays_exact() -> None:
    """Covariances of rank one: the inverse is all regularisation."""
    magnitudes, mixture = make_scene()
    magnitudes, mixture = magnitudes[:, :1].expand(-1, 2, -1, -1), mixture[:1].expand(2, -1, -1)
    estimates = with_phase(magnitudes, mixture)[None]
    exact = Wiener(1)(estimates, mixture[None])
    single = Wiener(1)(estimates.to(torch.complex64), mixture[None].to(torch.complex64))
    assert (single - exact).norm() < 1e-4 * exact.norm()


def test_inputs_are_left_as_they_were() -> None:
    magnitudes, mixture = make_scene(amplitude=100)
    estimates = with_phase(magnitudes, mixture)[None]
    kept = estimates.clone(), mixture.clone()
    Wiener(2, residual=True)(estimates, mixture[None])
    assert torch.equal(estimates, kept[0])
    assert torch.equal(mixture, kept[1])


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("kind", [Wiener, RankOneWiener])
def test_writing_over_the_estimates_gives_the_same(kind: type[Wiener], iterations: int) -> None:
    magnitudes, mixture = make_scene(frames=70)
    estimates = with_phase(magnitudes, mixture)[None]
    expected = kind(iterations, window_frames=30)(estimates, mixture[None])
    got = kind(iterations, window_frames=30, is_in_place=True)(estimates, mixture[None])
    assert got is estimates
    assert torch.equal(got, expected)
