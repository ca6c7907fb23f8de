"""Open-Unmix against the package openunmix, on random weights with random statistics."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor, nn

from stemsplit.dsp.wiener import Wiener
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.x_umx import XUmx
from stemsplit.separation.separator import Separator

HIDDEN = 32


def randomise(net: nn.Module, seed: int) -> None:
    """Give statistics and scales values such that masks are neither all zero nor all one."""
    dice = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=dice)

    with torch.no_grad():
        net.input_mean.copy_(-0.5 + 0.2 * draw(net.input_mean))
        net.input_scale.copy_(0.5 + 0.2 * draw(net.input_scale).abs())
        net.output_mean.copy_(0.5 + 0.3 * draw(net.output_mean))
        net.output_scale.copy_(0.5 + 0.3 * draw(net.output_scale))
        for norm in (net.bn1, net.bn2, net.bn3):
            norm.running_mean.copy_(0.3 * draw(norm.running_mean))
            norm.running_var.copy_(0.5 + 1.5 * draw(norm.running_var).square())
            norm.weight.copy_(1 + 0.3 * draw(norm.weight))
            norm.bias.copy_(0.3 * draw(norm.bias))


def build_pair(
    openunmix: types.ModuleType, stems: tuple[str, ...], channels: int = 2
) -> tuple[dict[str, nn.Module], OpenUnmix]:
    originals, state = {}, {}
    for seed, stem in enumerate(stems):
        torch.manual_seed(seed)
        net = openunmix.model.OpenUnmix(
            nb_bins=2049, nb_channels=channels, hidden_size=HIDDEN, nb_layers=3, max_bin=1487
        )
        randomise(net, seed)
        originals[stem] = net.eval()
        state.update({f"core.nets.{stem}.{key}": value for key, value in net.state_dict().items()})
    ours = OpenUnmix(OpenUnmixConfig(stems, channels, hidden_size=HIDDEN)).eval()
    ours.load_state_dict(state)
    return originals, ours


def music(samples: int, channels: int = 2) -> Tensor:
    """Return chords and hits at the level of a record. Shape (1, C, T)."""
    dice = torch.Generator().manual_seed(samples)
    time_s = torch.arange(samples) / 44100
    chord = sum(torch.sin(2 * torch.pi * hz * time_s) for hz in (110.0, 277.2, 329.6, 880.0))
    hits = torch.randn(channels, samples, generator=dice) * torch.exp(-6 * (time_s % 0.4))
    pan = torch.linspace(0.4, 1.0, channels).unsqueeze(1)
    return (0.1 * pan * chord + 0.15 * hits + 0.01).unsqueeze(0)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("channels", [1, 2])
@torch.no_grad()
def test_the_network_alone(openunmix: types.ModuleType, channels: int) -> None:
    originals, ours = build_pair(openunmix, ("vocals", "drums"), channels)
    magnitude = torch.rand(3, channels, 2049, 20, generator=torch.Generator().manual_seed(0))
    masks = ours.core(magnitude)
    for index, net in enumerate(originals.values()):
        expected = net(magnitude)
        assert 0.05 < (expected == 0).float().mean() < 0.95
        assert relative(masks[:, index] * magnitude, expected) < 1e-5


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 2])
@torch.no_grad()
def test_a_whole_song(openunmix: types.ModuleType, iterations: int, residual: bool) -> None:
    stems = ("vocals", "drums", "bass", "other")
    originals, ours = build_pair(openunmix, stems)
    mixture = music(10 * 44100 + 321)
    original = openunmix.model.Separator(
        originals, niter=iterations, residual=residual, wiener_win_len=300
    ).eval()
    expected = original(mixture)
    inputs, carry = ours.encode(mixture)
    refine = Wiener(iterations, window_frames=300, residual=residual)
    got = ours.decode(ours.run_core(inputs), carry, refine)
    assert got.shape == expected.shape
    for stem in range(expected.shape[1]):
        assert relative(got[:, stem], expected[:, stem]) < 1e-4


@torch.no_grad()
def test_one_stem_with_a_residual(openunmix: types.ModuleType) -> None:
    originals, ours = build_pair(openunmix, ("vocals",))
    mixture = music(3 * 44100)
    expected = openunmix.model.Separator(
        originals, niter=1, residual=True, wiener_win_len=300
    ).eval()(mixture)
    inputs, carry = ours.encode(mixture)
    got = ours.decode(ours.run_core(inputs), carry, Wiener(1, window_frames=300, residual=True))
    assert relative(got, expected) < 1e-4


@torch.no_grad()
def test_the_separator_in_the_original_framing(openunmix: types.ModuleType) -> None:
    stems = ("vocals", "drums")
    originals, ours = build_pair(openunmix, stems)
    mixture = music(9 * 44100)
    expected = openunmix.model.Separator(originals, niter=1, wiener_win_len=300).eval()(mixture)
    got = Separator(ours, framing="original", wiener=1).separate(mixture[0])
    for index, stem in enumerate(stems):
        assert relative(got[stem], expected[0, index]) < 1e-4


@torch.no_grad()
def test_only_the_requested_networks_run() -> None:
    model = OpenUnmix(OpenUnmixConfig.tiny(("vocals", "drums", "bass"))).eval()
    ran = []
    for stem, net in model.core.nets.items():
        net.register_forward_hook(lambda *_, stem=stem: ran.append(stem))
    model.only(["bass"])(torch.randn(1, 2, 5000))
    assert ran == ["bass"]


def test_the_published_sizes() -> None:
    def count(hidden_size: int) -> int:
        net = OpenUnmix(OpenUnmixConfig(("vocals",), hidden_size=hidden_size))
        return sum(
            value.numel() for value in net.state_dict().values() if value.is_floating_point()
        )

    # The NNabla set holds 8,897,448: torch's LSTM has a second bias, 3 layers x 2 ways x 4 x 256.
    assert count(512) == 8_897_448 + 3 * 2 * 4 * 256
    assert OpenUnmixConfig(("vocals",)).seen_bins == 1487


@pytest.mark.parametrize("kind", [OpenUnmix, XUmx])
@torch.no_grad()
def test_masks_lie_in_memory_as_the_mixture_does(kind: type[OpenUnmix]) -> None:
    """Bin after bin: masking would read them crosswise, or stacking them turn them over."""
    model = kind(kind.Config.tiny(("vocals", "drums", "bass"))).eval().only(["bass", "vocals"])
    inputs, carry = model.encode(torch.randn(1, 2, 5000))
    (masks,) = model.run_core(inputs)
    assert masks.stride(-2) == carry.mixture.stride(-2) == 1
