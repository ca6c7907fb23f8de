"""Losses: what they are worth on known signals and on silence, and whether every network learns."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.models.base import ModelConfig, SpectralModel, StemModel
from stemsplit.models.catalogue import ARCHITECTURES, find_architecture
from stemsplit.models.unet import IntermediateBlockUNet, IntermediateBlockUNetConfig
from stemsplit.training.combinations import combine_magnitude_mse, combine_sdr
from stemsplit.training.losses import (
    TERMS,
    LossConfig,
    build_loss,
    compare_resolutions,
    negative_si_sdr,
)
from stemsplit.training.spectra import Pass, transform

STEMS = ("vocals", "drums")
# What is estimated in the form in which it is read.
MIRRORED = ("d3net", "spleeter")


class Shares(nn.Module):
    """Give every stem a share of the mixture. Shape: (B, C, F, N, 2) -> (B, S, C, F, N, 2)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.linspace(0.2, 0.8, count).reshape(-1, 1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) * self.shares


class ShareModel(SpectralModel):
    """The smallest spectrogram network there is."""

    n_fft, hop_length = 64, 16

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.core = Shares(len(config.stems))

    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        return (torch.view_as_real(mixture),)

    def estimate(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        return torch.view_as_complex(outputs[0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def share_batch(stems: tuple[str, ...] = STEMS) -> tuple[ShareModel, Tensor, Tensor]:
    """Return a model, a mixture, and stems that are exactly what the model makes of it."""
    model = ShareModel(ModelConfig(stems))
    mixture = noise(2, 2, 1000)
    shares = model.core.shares.detach().reshape(-1, 1, 1)
    return model, mixture, mixture.unsqueeze(1) * shares


def measure(config: LossConfig, model: StemModel, mixture: Tensor, stems: Tensor) -> float:
    return build_loss(config)(model, mixture, stems).item()


def build_tiny(name: str, **values: object) -> StemModel:
    torch.manual_seed(0)
    kind = find_architecture(name)
    model = kind(kind.Config.tiny(STEMS))
    return model.train()


def excerpt(model: StemModel, stems: int = 2, batch: int = 2, seed: int = 1) -> Tensor:
    """Return tones and noise. Shape (B, S, C, T)."""
    count = min(model.chunk.samples, 16384)
    count = model.chunk.samples if model.chunk.fixed else count
    time = torch.arange(count) / 44100
    tones = torch.stack([torch.sin(2 * math.pi * 440 * (n + 1) * time) for n in range(stems)])
    return 0.2 * tones.reshape(1, stems, 1, count) + 0.1 * noise(batch, stems, 2, count, seed=seed)


# What a term is worth


@pytest.mark.parametrize("term", [name for name in TERMS if name != "si_sdr"])
def test_a_perfect_estimate_costs_nothing(term: str) -> None:
    model, mixture, stems = share_batch()
    config = LossConfig((term,))
    assert measure(config, model, mixture, stems) == pytest.approx(0, abs=3e-6)
    assert measure(config, model, mixture, stems.flip(-1)) > 1e-3


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("frames", [0, 7])
def test_spectrograms_are_compared_as_chosen(*, centred: bool, frames: int) -> None:
    model, mixture, stems = share_batch()
    wrong = stems.flip(1)
    window = torch.hann_window(64)
    given, true = (
        torch.stft(x.reshape(-1, 1000), 64, 16, window=window, center=centred, return_complex=True)
        for x in (stems, wrong)
    )
    kept = slice(None, frames or None)
    given, true = given[..., kept], true[..., kept]
    expected = {
        "magnitude_l1": functional.l1_loss(given.abs(), true.abs()),
        "magnitude_mse": functional.mse_loss(given.abs(), true.abs()),
        "complex_l1": (functional.l1_loss(given.real, true.real)
                       + functional.l1_loss(given.imag, true.imag)) / 2,
        "complex_mse": (given - true).abs().square().mean() / 2,
    }  # fmt: skip
    for term, value in expected.items():
        config = LossConfig((term,), centred=centred, frames=frames)
        got = measure(config, model, mixture, wrong)
        assert got == pytest.approx(float(value), rel=1e-5)


def test_terms_are_weighted_and_summed() -> None:
    model, mixture, stems = share_batch()
    wrong = stems.flip(1)

    spectrogram = measure(LossConfig(("complex_l1",)), model, mixture, wrong)
    waveform = measure(LossConfig(("waveform_l1",)), model, mixture, wrong)
    both = LossConfig(("complex_l1", "waveform_l1"), (2.0, 0.5))
    expected = 2 * spectrogram + 0.5 * waveform
    assert measure(both, model, mixture, wrong) == pytest.approx(expected)
    summed = LossConfig(("complex_l1",), over_stems="sum")
    assert measure(summed, model, mixture, wrong) == pytest.approx(2 * spectrogram)


def test_waveforms_are_compared_sample_by_sample() -> None:
    model, mixture, stems = share_batch()
    wrong = stems + 0.25
    for term, value in {"waveform_l1": 0.25, "waveform_mse": 0.0625}.items():
        assert measure(LossConfig((term,)), model, mixture, wrong) == pytest.approx(value, rel=1e-5)


def test_si_sdr_of_a_known_error_whatever_the_scale() -> None:
    stem = torch.sin(torch.arange(8000) * 0.1)
    error = torch.cos(torch.arange(8000) * 0.1) * 0.1
    for scale in (0.01, 1.0, 30.0):
        assert float(negative_si_sdr(scale * (stem + error), stem)) == pytest.approx(-20, abs=0.01)


def test_many_resolutions_average_their_differences() -> None:
    given, true = noise(1, 2, 2000), noise(1, 2, 2000, seed=1)
    parts = []
    for size in (256, 64):
        spectra = [
            torch.stft(x.reshape(-1, 2000), size, 50, window=torch.hann_window(size),
                       return_complex=True)
            for x in (given, true)
        ]  # fmt: skip
        parts.append(torch.view_as_real(spectra[0] - spectra[1]).abs().mean())
    got = compare_resolutions(given, true, (256, 64), 50)
    assert float(got) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


# Selections of stems, against the long way round


def selections(count: int) -> list[tuple[int, ...]]:
    sizes = range(1, count) if count > 1 else [1]
    return [pick for size in sizes for pick in itertools.combinations(range(count), size)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_combined_magnitudes_are_the_mean_over_all_selections(count: int) -> None:
    given, true = noise(2, count, 2, 9, 11).abs(), noise(2, count, 2, 9, 11, seed=1).abs()
    expected = [
        functional.mse_loss(given[:, list(pick)].sum(1), true[:, list(pick)].sum(1))
        for pick in selections(count)
    ]
    got = combine_magnitude_mse(given, true)
    assert float(got) == pytest.approx(float(sum(expected)) / len(expected), rel=1e-5)


@pytest.mark.parametrize("rest", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_combined_sdr_is_the_mean_over_all_selections(count: int, rest: float) -> None:
    true = noise(2, count, 2, 500)
    true[0, 0] = 0
    given = true + 0.3 * noise(2, count, 2, 500, seed=1)
    mixture = true.sum(1) + rest * noise(2, 2, 500, seed=2)

    def cosine(left: Tensor, right: Tensor) -> Tensor:
        roots = [(x.square().sum(-1) + 1e-10).sqrt() for x in (left, right)]
        return (left * right).sum(-1) / (roots[0] * roots[1] + 1e-10)

    values = []
    for pick in selections(count):
        t, p = true[:, list(pick)].sum(1), given[:, list(pick)].sum(1)
        energy, other = t.square().sum(-1), (mixture - t).square().sum(-1)
        share = energy / (energy + other + 1e-10)
        values.append(share * cosine(t, p) + (1 - share) * cosine(mixture - t, mixture - p))
    expected = 1 - torch.stack(values).mean()
    assert float(combine_sdr(mixture, given, true)) == pytest.approx(float(expected), abs=2e-6)


# Networks


def terms_of(name: str) -> list[str]:
    return [term for term in TERMS if name in MIRRORED or not term.startswith("network")]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("kind", ["silence", "silent stem", "sound"])
def test_every_loss_has_a_gradient_everywhere(name: str, kind: str) -> None:
    model = build_tiny(name)
    stems = excerpt(model)
    if kind == "silence":
        stems = torch.zeros_like(stems)
    if kind == "silent stem":
        stems[:, 0] = 0
    config = LossConfig(tuple(terms_of(name)), edge_samples=20, resolutions=(512, 128))
    value = build_loss(config)(model, stems.sum(1), stems)
    value.backward()
    assert torch.isfinite(value)
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    assert len(gradients) > 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


PLAIN = {
    "bsrnn": LossConfig(("complex_l1", "waveform_l1"), (2.0, 1.0)),
    "d3net": LossConfig(),
    "intermediate-block-unet": LossConfig(("complex_mse",)),
    "lasaft": LossConfig(("complex_mse",)),
    "open-unmix": LossConfig(centred=False),
    "spleeter": LossConfig(("network_l1",), over_stems="sum"),
    "x-umx": LossConfig(("combined_magnitude_mse", "combined_sdr"), (1.0, 10.0)),
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_network_learns_one_batch(name: str) -> None:
    model = build_tiny(name)
    stems = excerpt(model)
    loss = build_loss(PLAIN[name])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(8):
        optimiser.zero_grad()
        value = loss(model, stems.sum(1), stems)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert min(values[-3:]) < 0.9 * values[0]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_parameter_takes_part(name: str) -> None:
    model = build_tiny(name)
    stems = excerpt(model)
    build_loss(PLAIN[name])(model, stems.sum(1), stems).backward()
    assert [key for key, one in model.named_parameters() if one.grad is None] == []


def test_the_core_runs_once_for_any_number_of_terms() -> None:
    model, mixture, stems = share_batch()
    runs = []
    model.core.register_forward_hook(lambda *_: runs.append(1))
    build_loss(LossConfig(tuple(TERMS)))(model, mixture, stems)
    assert runs == [1]


@pytest.mark.parametrize("name", ["open-unmix", "d3net", "intermediate-block-unet", "spleeter"])
def test_magnitudes_are_those_of_the_estimates(name: str) -> None:
    model = build_tiny(name).eval()
    assert isinstance(model, SpectralModel)
    run = Pass(model, excerpt(model)[:, 0], excerpt(model))
    torch.testing.assert_close(run.magnitudes, run.spectra.abs(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_half_precision_ends_at_the_core(name: str) -> None:
    model = build_tiny(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.RNNBase):
            setattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", 0.0)
    stems = excerpt(model)
    loss = build_loss(PLAIN[name])
    full = loss(model, stems.sum(1), stems)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(model, stems.sum(1), stems)
    assert half.dtype == torch.float32
    assert half.item() != full.item()
    assert half.item() == pytest.approx(full.item(), rel=0.1)


def test_a_spectrogram_in_half_precision_is_made_full() -> None:
    config = IntermediateBlockUNetConfig.tiny(STEMS)
    config = replace(config, estimate="mapping", last_activation="identity")
    model = IntermediateBlockUNet(config).train()
    stems = excerpt(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build_loss(PLAIN["intermediate-block-unet"])(model, stems.sum(1), stems)
    value.backward()
    assert torch.isfinite(value)


def test_differences_are_taken_in_full_precision() -> None:
    model, mixture, stems = share_batch()
    config = LossConfig(tuple(TERMS))
    full = measure(config, model, mixture, stems.flip(-1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure(config, model, mixture, stems.flip(-1)) == full


def test_the_transform_in_training_is_that_of_use() -> None:
    model = build_tiny("open-unmix")
    assert isinstance(model, SpectralModel)
    mixture = noise(1, 2, 3000)
    torch.testing.assert_close(transform(mixture, model), model.encode(mixture).carry.mixture)
    whole = transform(mixture, model, centred=False)
    assert whole.shape[-1] == (3000 - model.n_fft) // model.hop_length + 1


# What is refused


def test_an_unknown_term_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="magnitude_mse"):
        build_loss(LossConfig(("magnitud_mse",)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LossConfig(()), "without terms"),
        (LossConfig(("si_sdr",), (1.0, 2.0)), "2 weights for 1 terms"),
        (LossConfig(("si_sdr",), (-1.0,)), "weighted by"),
        (LossConfig(("si_sdr",), (math.nan,)), "weighted by"),
        (LossConfig(("waveform_l1",), centred=False), "do not cover"),
        (LossConfig(("magnitude_l1", "combined_sdr"), frames=9), "combined_sdr compares waveforms"),
    ],
)
def test_values_that_do_not_go_together(config: LossConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_loss(config)


def test_an_unknown_way_to_join_stems() -> None:
    with pytest.raises(UnknownNameError, match="mean"):
        build_loss(LossConfig(over_stems="men"))  # type: ignore[arg-type]  # that is the test


def test_an_excerpt_that_is_all_edge() -> None:
    model, mixture, stems = share_batch()
    with pytest.raises(UsageError, match="500 samples at either end"):
        build_loss(LossConfig(("combined_sdr",), edge_samples=500))(model, mixture, stems)
