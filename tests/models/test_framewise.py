"""Frames that know nothing of each other, some at a time and all at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.models.blocks import framewise
from stemsplit.models.blocks.framewise import by_frames, by_sequences

WORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "the same size": lambda x: 2 * x + 1,
    "twice the frames": lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "half the bins": lambda x: x[..., ::2] + 1,
    "two of one": lambda x: torch.cat((x, -x)),
    "other numbers": lambda x: x.to(torch.bfloat16),
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five frames of the images here at once."""
    monkeypatch.setattr(framewise, "NUMBERS_AT_ONCE", 5 * 2 * 3 * 8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("frames", [1, 5, 6, 13])
@pytest.mark.parametrize("may_replace", [False, True])
@pytest.mark.parametrize("name", WORKS)
@torch.no_grad()
def test_some_frames_at_a_time_are_all(
    name: str, may_replace: bool, frames: int, layout: torch.memory_format
) -> None:
    x = torch.randn(2, 3, frames, 8).contiguous(memory_format=layout)
    before = x.clone()
    seen: list[int] = []

    def work(part: Tensor) -> Tensor:
        seen.append(part.shape[2])
        return WORKS[name](part)

    found = by_frames(work, x, training=False, may_replace=may_replace)
    assert max(seen) <= 5
    assert sum(seen) == frames
    assert torch.equal(found, WORKS[name](before))
    is_replaced = may_replace and name == "the same size" and frames > 5
    assert (found.data_ptr() == x.data_ptr()) == is_replaced
    if not is_replaced:
        assert torch.equal(x, before)


@torch.no_grad()
def test_what_grows_goes_fewer_at_a_time() -> None:
    seen: list[int] = []

    def work(part: Tensor) -> Tensor:
        seen.append(part.shape[2])
        return part.repeat(1, 2, 1, 1)

    by_frames(work, torch.zeros(2, 3, 10, 8), training=False, grows=2)
    assert max(seen) == 2


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", WORKS)
@torch.no_grad()
def test_threads_share_the_pieces(
    name: str, threads: int, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    monkeypatch.setattr(framewise, "FEWEST_NUMBERS", 1)
    set_threads(threads)
    x = torch.randn(2, 3, 13, 8)
    seen: list[int] = []

    def work(part: Tensor) -> Tensor:
        if part.shape[2] > 1:
            time.sleep(0.02)  # the last piece, the shortest, is the first to be there
        seen.append(part.shape[2])
        return WORKS[name](part)

    assert torch.equal(by_frames(work, x, training=False), WORKS[name](x))
    assert sum(seen) == 13
    assert len(seen) >= threads
    assert max(seen) <= 5


@pytest.mark.parametrize("threads", [1, 2])
def test_norms_in_training_and_gradients_see_all_frames(
    threads: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(threads)
    norm = nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 13, 8)
    expected = nn.BatchNorm2d(3)(x)
    torch.testing.assert_close(by_frames(norm, x, training=True), expected)
    x.requires_grad_()
    by_frames(lambda part: part**2, x, training=False, may_replace=True).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())
    weight = torch.ones(1, requires_grad=True)
    known = x.detach()
    by_frames(lambda part: weight * part, known, training=False, may_replace=True).sum().backward()
    torch.testing.assert_close(weight.grad, known.sum()[None])


class TestSequences:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three sequences at once."""
        monkeypatch.setattr(framewise, "SEQUENCE_NUMBERS_AT_ONCE", 3 * 6 * 4 + 1)

    @pytest.mark.parametrize("count", [1, 3, 4, 7])
    @pytest.mark.parametrize("is_turned", [False, True])
    @torch.no_grad()
    def test_some_at_a_time_are_all(self, count: int, is_turned: bool) -> None:
        x = torch.randn(6, count, 4).transpose(0, 1) if is_turned else torch.randn(count, 6, 4)
        before = x.clone()
        seen: list[int] = []

        def work(part: Tensor) -> Tensor:
            seen.append(len(part))
            return part.cumsum(dim=1) + part

        found = by_sequences(work, x, training=False)
        assert (found is x) == (count > 3)
        assert max(seen) <= 3
        assert sum(seen) == count
        assert torch.equal(found, before.cumsum(dim=1) + before)

    @torch.no_grad()
    def test_what_is_written_down_is_taken_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(framewise, "is_recorded", lambda _: True)
        x = torch.randn(7, 6, 4)
        assert torch.equal(by_sequences(lambda part: part + len(part), x, training=False), x + 7)

    def test_with_gradients_and_in_training_all_are_taken_at_once(self) -> None:
        x = torch.randn(7, 6, 4)
        before = x.clone()
        assert torch.equal(by_sequences(lambda part: part + len(part), x, training=False), x + 7)
        with torch.no_grad():
            assert torch.equal(by_sequences(lambda part: part + len(part), x, training=True), x + 7)
        assert torch.equal(x, before)
