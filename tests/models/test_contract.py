"""What every architecture of the catalogue promises. A new one is tested here without an edit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from random_weights import build_tiny, randomise
from torch import Tensor

from stemsplit.errors import UnknownNameError
from stemsplit.models.base import SpectralModel, StemModel
from stemsplit.models.catalogue import ARCHITECTURES

STEMS = ("vocals", "drums", "bass")


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> StemModel:
    return build_tiny(request.param, STEMS)


def music(samples: int, *, batch: int = 1, channels: int = 2, amplitude: float = 1.0) -> Tensor:
    dice = torch.Generator().manual_seed(samples)
    noise = torch.randn(batch, channels, samples, generator=dice)
    return amplitude * 0.2 * noise


@pytest.mark.parametrize("samples", [1, 2, 1023, 1024, 4097, 70_000])
@torch.no_grad()
def test_any_length_comes_back_at_that_length(model: StemModel, samples: int) -> None:
    stems = model(music(samples, batch=2))
    assert stems.shape == (2, len(STEMS), 2, samples)
    assert stems.dtype == torch.float32
    assert torch.isfinite(stems).all()


@pytest.mark.parametrize("amplitude", [1e-3, 1.0, 1e3])
@torch.no_grad()
def test_amplitudes_stay_finite(model: StemModel, amplitude: float) -> None:
    stems = model(music(30_000, amplitude=amplitude))
    assert torch.isfinite(stems).all()
    assert stems.abs().max() < 1e3 * amplitude


@torch.no_grad()
def test_silence_gives_silence(model: StemModel) -> None:
    assert model(torch.zeros(1, 2, 20_000)).abs().max() < 1e-6


@torch.no_grad()
def test_a_batch_is_its_items(model: StemModel) -> None:
    batch = music(50_000, batch=3)
    apart = torch.cat([model(item.unsqueeze(0)) for item in batch])
    torch.testing.assert_close(model(batch), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimate", ["mapping", "masking"])
@torch.no_grad()
def test_what_is_not_read_may_go(model: StemModel, estimate: str) -> None:
    if hasattr(model.config, "estimate"):
        model = type(model)(replace(model.config, estimate=estimate)).eval()
    for samples in (9000, model.chunk.samples):
        inputs, carry = model.encode(music(samples))
        outputs = model.run_core(inputs)
        light = model.lighten(carry)
        assert torch.equal(model.decode(outputs, light), model.decode(outputs, carry))


@torch.no_grad()
def test_mono_models(model: StemModel) -> None:
    kind = type(model)
    config = kind.Config.tiny(STEMS)
    mono = kind(type(config)(**{**vars(config), "channels": 1})).eval()
    assert mono(music(9000, channels=1)).shape == (1, len(STEMS), 1, 9000)


@pytest.mark.parametrize("wanted", [("drums",), ("bass", "vocals"), STEMS])
@torch.no_grad()
def test_only_the_requested_stems(model: StemModel, wanted: tuple[str, ...]) -> None:
    mixture = music(40_000)
    every = model(mixture)
    part = model.only(wanted)
    assert part.stems == wanted
    expected = every[:, [STEMS.index(stem) for stem in wanted]]
    torch.testing.assert_close(part(mixture), expected, rtol=1e-5, atol=1e-6)
    assert model.stems == STEMS
    torch.testing.assert_close(model(mixture), every, rtol=0, atol=0)


def test_an_unknown_stem_is_refused(model: StemModel) -> None:
    with pytest.raises(UnknownNameError, match="vocal"):
        model.only(["vocal"])


@torch.no_grad()
def test_two_runs_are_identical(model: StemModel) -> None:
    mixture = music(40_000)
    assert torch.equal(model(mixture), model(mixture))


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(model: StemModel) -> None:
    other = type(model)(model.config).eval()
    randomise(other, seed=1)
    mixture = music(20_000)
    assert not torch.equal(other(mixture), model(mixture))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(mixture), model(mixture))


def test_gradients_reach_every_parameter(model: StemModel) -> None:
    model.train()
    loss = model(music(70_000, batch=2)).square().sum()
    loss.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == []
    dead = [name for name, value in model.named_parameters() if not value.grad.any()]
    assert dead == []


@torch.no_grad()
def test_all_weights_are_in_the_core(model: StemModel) -> None:
    assert all(name.startswith("core.") for name in model.state_dict())


@torch.no_grad()
def test_the_core_takes_and_gives_real_tensors(model: StemModel) -> None:
    inputs, _ = model.encode(music(20_000))
    assert all(not tensor.is_complex() for tensor in inputs)
    assert all(not tensor.is_complex() for tensor in model.run_core(inputs))


@torch.no_grad()
def test_lower_precision_stays_near(model: StemModel) -> None:
    mixture = music(60_000)
    exact = model(mixture)
    inputs, carry = model.encode(mixture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.run_core(inputs)
    near = model.decode(tuple(output.float() for output in outputs), carry)
    assert (near - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def test_the_chunk_plan_is_one_that_works(model: StemModel) -> None:
    chunk = model.chunk
    overlap = round(chunk.samples * chunk.overlap)
    assert chunk.edge_samples > 0
    assert 2 * chunk.edge_samples < overlap < chunk.samples
    if isinstance(model, SpectralModel):
        assert chunk.edge_samples >= model.n_fft // 2
    assert (chunk.samples - chunk.remainder) % chunk.multiple_of == 0
