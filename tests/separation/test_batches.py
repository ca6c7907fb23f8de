"""Chunks that go through a network together."""

from __future__ import annotations

from itertools import islice
from typing import Any

import hypothesis.strategies as some
import pytest
import torch
from hypothesis import given
from linear_model import LinearModel
from random_weights import build_tiny, randomise
from torch import Tensor, nn

from stemsplit.backends.workers import choose_batch_size
from stemsplit.errors import DeviceError
from stemsplit.models.base import Member, Model
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.models.ensemble import Ensemble
from stemsplit.separation.lanes import share_out
from stemsplit.separation.separator import Separator

STEMS = ("vocals", "drums", "bass")


def music(samples: int, channels: int = 2) -> Tensor:
    dice = torch.Generator().manual_seed(samples)
    return 0.2 * torch.randn(channels, samples, generator=dice)


class Listening(nn.Module):
    """A linear network that remembers how many chunks it saw at a time, and takes only so many."""

    def __init__(self, most: int = 1000, words: str = "DefaultCPUAllocator: not enough") -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.most = most
        self.words = words

    def forward(self, mixture: Tensor) -> Tensor:
        self.sizes.append(mixture.shape[0])
        if mixture.shape[0] > self.most:
            raise RuntimeError(self.words)
        return mixture.unsqueeze(1) * torch.tensor([0.3, 0.7]).reshape(1, -1, 1, 1)


def listening(**options: object) -> tuple[LinearModel, Listening]:
    model = LinearModel()
    core = Listening(**options)
    model.core = core
    # What runs is a copy of the core's modules; the list is to be the same.
    core.__deepcopy__ = lambda memo: core  # type: ignore[operator]
    return model, core


@given(some.integers(1, 300), some.integers(1, 40), some.integers(1, 4))
def test_batches_are_alike_and_all_workers_have_as_many(
    chunks: int, most: int, workers: int
) -> None:
    sizes: list[int] = []
    for size in share_out(chunks, most, workers):
        if sum(sizes) >= chunks:
            break
        sizes.append(size)
    assert sum(sizes) == chunks
    assert 1 <= min(sizes) <= max(sizes) <= min(most, min(sizes) + 1)
    assert len(sizes) == min(chunks, -(-chunks // (most * workers)) * workers)


@pytest.mark.parametrize("chunks", [None, 0])
def test_of_a_song_of_unknown_length_all_batches_are_full(chunks: int | None) -> None:
    assert list(islice(share_out(chunks, 4, 2), 5)) == [4] * 5


def test_a_song_that_is_longer_than_was_said_goes_on_in_full_batches() -> None:
    assert list(islice(share_out(5, 4, 2), 4)) == [2, 3, 4, 4]


def check_together(model: Model, size: int, **options: Any) -> None:
    """See that batches give what each chunk gives alone, for some four chunks and a half."""
    if not all(member.model.chunk.fixed for member in model.members):
        options["segment_s"] = 4.1
    alone = Separator(model, backend="torch", **options)
    framings = [network.framing for network in alone._networks]
    mixture = music(max(4 * (one.chunk_samples or 0) for one in framings) + 4321)
    expected = alone.separate(mixture)
    found = Separator(model, backend="torch", batch_size=size, **options).separate(mixture)
    for stem, signal in expected.items():
        assert found[stem].shape == mixture.shape
        assert (found[stem] - signal).norm() < 1e-5 * signal.norm()


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_together_they_give_what_each_gives_alone(
    architecture: str, channels: int, size: int
) -> None:
    model = build_tiny(architecture, STEMS)
    if channels == 1:
        kind = type(model)
        model = kind(type(model.config)(**{**vars(model.config), "channels": 1})).eval()
        randomise(model)
    check_together(model, size)


def test_a_filter_over_all_stems_sees_each_chunk_alone() -> None:
    check_together(build_tiny("open-unmix", STEMS), 3, wiener=1)


def test_several_networks_and_shifts_have_batches_of_their_own() -> None:
    members = [
        Member(build_tiny(name, STEMS), dict.fromkeys(STEMS, 0.5)) for name in ("spleeter", "d3net")
    ]
    check_together(Ensemble(STEMS, members), 3, shifts=2)


def test_sizes_follow_the_songs_length() -> None:
    model, core = listening()
    # Seven chunks; the last is moved back to end with the song.
    stems = Separator(model, threads=1, batch_size=4).separate(music(6 * 44100 + 100))
    assert core.sizes == [3, 4]
    torch.testing.assert_close(stems["vocals"], 0.3 * music(6 * 44100 + 100), rtol=0, atol=1e-6)


def test_chunks_of_several_lengths_do_not_go_together() -> None:
    model, core = listening()
    chunk = model.chunk.__class__(samples=44100, overlap=0.0, multiple_of=100)
    model.chunk = chunk
    mixture = music(3 * 44100 + 50)
    stems = Separator(model, threads=1, batch_size=4).separate(mixture)
    assert core.sizes == [3, 1]
    torch.testing.assert_close(stems["vocals"], 0.3 * mixture, rtol=0, atol=1e-6)


def test_where_memory_is_too_small_for_a_batch_it_is_halved_from_then_on() -> None:
    model, core = listening(most=2)
    mixture = music(15 * 44100)
    stems = Separator(model, threads=1, batch_size=8).separate(mixture)
    assert core.sizes == [7, 4, 2, 2, 2, 1, 2, 2, 2, 2]
    torch.testing.assert_close(stems["vocals"], 0.3 * mixture, rtol=0, atol=1e-6)


def test_memory_that_is_too_small_for_one_chunk_is_an_error() -> None:
    model, core = listening(most=0)
    with pytest.raises(DeviceError, match="ran out of memory"):
        Separator(model, threads=1, batch_size=4).separate(music(4 * 44100))
    assert core.sizes == [4, 2, 1]


def test_another_error_is_none_of_memory() -> None:
    model, core = listening(most=0, words="a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        Separator(model, threads=1, batch_size=4).separate(music(4 * 44100))
    assert core.sizes == [4]


def test_small_chunks_go_together_on_a_card_alone() -> None:
    cpu, card = torch.device("cpu"), torch.device("cuda")
    assert choose_batch_size(cpu) == choose_batch_size(card, is_large=True) == 1
    assert choose_batch_size(card) > 1
