"""Every architecture on a graphics card, beside itself on the processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from random_weights import build_tiny
from torch import Tensor

from stemsplit.backends.transfers import Return, send
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.separation.separator import Separator

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
STEMS = ("vocals", "drums")
LEAST_SNR_DB = {"fp32": 40.0, "bf16": 15.0, "fp16": 30.0}
"""Convolutions of fp32 are TF32 there, as torch has it."""


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> StemModel:
    return build_tiny(request.param, STEMS)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """An error where the processor waits for the card."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def music(samples: int) -> Tensor:
    return 0.2 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("precision", LEAST_SNR_DB)
def test_a_song_is_what_the_processor_makes_of_it(model: StemModel, precision: str) -> None:
    mixture = music(200_000)
    expected = Separator(model, device="cpu", backend="torch").separate(mixture)
    found = Separator(model, device="cuda", precision=precision).separate(mixture)
    for stem, signal in expected.items():
        assert found[stem].device.type == "cpu"
        noise = (found[stem] - signal).norm()
        assert 20 * torch.log10(signal.norm() / noise) >= LEAST_SNR_DB[precision]


def test_chunks_together_are_what_each_is_alone(model: StemModel) -> None:
    mixture = music(4 * model.chunk.samples)
    expected, found = (
        Separator(model, device="cuda", batch_size=size).separate(mixture) for size in (1, 3)
    )
    for stem, signal in expected.items():
        noise = (found[stem] - signal).norm()
        assert 20 * torch.log10(signal.norm() / noise) >= LEAST_SNR_DB["fp32"]


@pytest.mark.parametrize("precision", LEAST_SNR_DB)
def test_nobody_waits_before_the_end_of_a_chunk(
    model: StemModel, precision: str, request: pytest.FixtureRequest
) -> None:
    (network,) = Separator(model, device="cuda", precision=precision)._networks
    samples = network.framing.chunk_samples or 0
    chunk = music(2 * samples)[:, :samples]  # as it lies in what waits for the next
    (expected,) = network.begin([chunk])()
    assert network.is_ahead
    request.getfixturevalue("no_waiting")
    finish = network.begin([chunk])
    torch.testing.assert_close(next(finish()), expected)


def test_a_short_mono_song(model: StemModel) -> None:
    mixture = music(20_000)[:1]
    found = Separator(model, device="cuda").separate(mixture)
    assert all(signal.shape == mixture.shape for signal in found.values())


@pytest.mark.parametrize("is_repeated", [False, True])
def test_there_and_back(is_repeated: bool) -> None:
    array = music(100_000)
    array = array[:1].expand(2, -1) if is_repeated else array[:, 100:-100]
    there = send(array, torch.device("cuda"))
    assert there.device.type == "cuda"
    back = Return(there * 2).wait()
    assert not back.is_pinned()
    assert torch.equal(back, array * 2)
