"""Chunks that a graphics card computes while the caller is at the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from linear_model import LinearModel
from torch import Tensor

from stemsplit.errors import StemsplitError
from stemsplit.separation import framed_network
from stemsplit.separation.framed_network import FramedNetwork
from stemsplit.separation.separator import Separator

MIXTURE = torch.randn(2, 300_000, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)


class LateReturn:
    """An array that is not there before somebody waits for it, as if a card computed it."""

    told: list[str]

    def __init__(self, array: Tensor) -> None:
        self._array = array
        self.told.append("begun")

    def wait(self) -> Tensor:
        self.told.append("waited")
        return self._array


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, where a card computes."""
    LateReturn.told = []
    monkeypatch.setattr(framed_network, "Return", LateReturn)
    monkeypatch.setattr(framed_network, "send", lambda array, _: array)
    monkeypatch.setattr(framed_network, "count_workers", lambda *_, **__: 1)
    monkeypatch.setattr(FramedNetwork, "is_ahead", True)
    return LateReturn.told


def test_the_next_chunk_is_begun_before_the_last_is_waited_for(told: list[str]) -> None:
    stems = Separator(LinearModel()).separate(MIXTURE)
    torch.testing.assert_close(stems["vocals"], 0.3 * MIXTURE, rtol=0, atol=1e-6)
    chunks = len(told) // 2
    assert chunks > 2
    assert told == ["begun"] + ["begun", "waited"] * (chunks - 1) + ["waited"]


def test_an_output_that_is_not_finite_is_told_when_it_is_there(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = FramedNetwork.begin

    def spoil(network: FramedNetwork, chunks: list[Tensor]) -> Callable[[], Iterator[Tensor]]:
        return begin(network, [chunk * torch.nan for chunk in chunks])

    monkeypatch.setattr(FramedNetwork, "begin", spoil)
    with pytest.raises(StemsplitError, match="not numbers in fp32"):
        Separator(LinearModel()).separate(MIXTURE)
    assert told == ["begun", "begun", "waited"]


def test_a_processor_is_done_when_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framed_network, "count_workers", lambda *_, **__: 1)
    (network,) = Separator(LinearModel())._networks
    assert not network.is_ahead
    finish = network.begin([MIXTURE[:, : network.framing.chunk_samples]])
    monkeypatch.setattr(FramedNetwork, "_finish", lambda *_: pytest.fail("it was done before"))
    (stems,) = finish()
    assert stems.device.type == "cpu"
