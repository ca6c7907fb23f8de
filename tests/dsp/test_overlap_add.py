from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from stemsplit.dsp.overlap_add import Chunk, Chunker, Joiner, SampleQueue, count_chunks


def feed(chunker: Chunker, song: Tensor, block: int) -> list[Chunk]:
    chunks = []
    for piece in song.split(block, dim=-1):
        chunks += chunker.feed(piece)
    return chunks + chunker.flush()


def join(chunks: list[Chunk], overlap: int, edge: int) -> Tensor:
    joiner = Joiner(overlap, edge)
    pieces = [piece for chunk in chunks for piece in joiner.add(chunk.start, chunk.samples)]
    rest = joiner.flush()
    assert rest is not None
    return torch.cat([*pieces, rest], dim=-1)


@pytest.mark.parametrize("samples", [1, 2, 99, 100, 101, 150, 174, 175, 176, 250, 1000, 1003])
@pytest.mark.parametrize(
    ("overlap", "edge"), [(0, 0), (0, 9), (1, 0), (25, 0), (25, 5), (75, 30), (98, 1)]
)
@pytest.mark.parametrize("block", [1, 64, 5000])
def test_identity_comes_back(samples: int, overlap: int, edge: int, block: int) -> None:
    song = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    joined = join(feed(Chunker(100, overlap), song, block), overlap, edge)
    torch.testing.assert_close(joined, song, rtol=0, atol=1e-6)


def test_chunks_do_not_depend_on_the_blocks() -> None:
    song = torch.arange(1234.0).unsqueeze(0)
    wanted = [(chunk.start, chunk.samples.tolist()) for chunk in feed(Chunker(100, 30), song, 1234)]
    for block in (1, 7, 99, 100, 101, 500):
        got = [
            (chunk.start, chunk.samples.tolist()) for chunk in feed(Chunker(100, 30), song, block)
        ]
        assert got == wanted


def test_all_chunks_have_the_length_and_the_last_ends_with_the_song() -> None:
    chunks = feed(Chunker(100, 30), torch.arange(333.0).unsqueeze(0), 50)
    assert [chunk.start for chunk in chunks] == [0, 70, 140, 210, 233]
    assert {chunk.samples.shape[-1] for chunk in chunks} == {100}
    assert chunks[-1].samples[0, -1] == 332


def test_a_song_that_fits_exactly_gets_no_second_chunk() -> None:
    assert len(feed(Chunker(100, 30), torch.zeros(1, 100), 100)) == 1
    assert len(feed(Chunker(100, 30), torch.zeros(1, 170), 100)) == 2


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 169, 170, 171, 240, 241, 999])
@pytest.mark.parametrize("overlap", [0, 30, 75])
@pytest.mark.parametrize("lead", [0, 1, 70])
@pytest.mark.parametrize("chunk_samples", [None, 100])
def test_chunks_are_counted_before_they_are_made(
    samples: int, overlap: int, lead: int, chunk_samples: int | None
) -> None:
    chunks = feed(Chunker(chunk_samples, overlap, lead), torch.zeros(1, samples), 64)
    assert count_chunks(samples, chunk_samples, overlap, lead) == len(chunks)


def test_whole_song_is_one_chunk() -> None:
    (chunk,) = feed(Chunker(None, 0), torch.zeros(2, 12_345), 100)
    assert chunk.samples.shape == (2, 12_345)


def test_lead_moves_the_borders_and_starts_with_zeros() -> None:
    chunks = feed(Chunker(100, 30, lead_samples=11), torch.ones(1, 200), 50)
    assert not chunks[0].samples[0, :11].any()
    assert chunks[0].samples[0, 11:].all()
    assert chunks[-1].start + 100 == 211


def test_edges_of_a_chunk_are_not_heard() -> None:
    """Whatever a network does within the edge of an inner border leaves no trace."""
    song = torch.ones(1, 370)
    spoilt = []
    for chunk in feed(Chunker(100, 30), song, 64):
        samples = chunk.samples.clone()
        if chunk.start > 0:
            samples[..., :10] = 1e6
        if chunk.start + 100 < 370:
            samples[..., -10:] = 1e6
        spoilt.append(Chunk(chunk.start, samples))
    torch.testing.assert_close(join(spoilt, 30, 10), song, rtol=0, atol=1e-6)


def test_nothing_in_nothing_out() -> None:
    chunker = Chunker(100, 30)
    assert chunker.feed(torch.zeros(1, 0)) == []
    assert chunker.flush() == []
    assert Joiner(30, 0).flush() is None


def test_memory_is_a_chunk_whatever_the_length() -> None:
    chunker = Chunker(1000, 250)
    for _ in range(300):
        chunker.feed(torch.zeros(2, 333))
        assert chunker._held < 1000 + 750 + 333


def test_queue_gives_what_it_was_given() -> None:
    queue = SampleQueue()
    song = torch.arange(100.0).unsqueeze(0)
    for piece in song.split(7, dim=-1):
        queue.push(piece)
    queue.push(song[:, :0])
    assert (queue.length, queue.head) == (100, 7)
    got = torch.cat([queue.pop(count) for count in (1, 6, 7, 50, 36)], dim=-1)
    assert torch.equal(got, song)
    assert (queue.length, queue.head) == (0, 0)


def test_fades_add_up_to_one() -> None:
    for overlap, edge in itertools.product((1, 2, 3, 10, 101), (0, 1, 4, 60)):
        ramp = Joiner(overlap, edge)._ramp
        assert ramp.shape == (overlap,)
        torch.testing.assert_close(ramp + ramp.flip(0), torch.ones(overlap))


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 170, 171, 333, 1000, 1007])
def test_chunks_begin_on_the_grid(samples: int) -> None:
    song = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))
    chunks = feed(Chunker(100, 30, grid_samples=10), song, 37)
    assert all(chunk.start % 10 == 0 for chunk in chunks)
    assert all(chunk.samples.shape[-1] > 90 for chunk in chunks) or samples < 100
    assert chunks[-1].start + chunks[-1].samples.shape[-1] == samples
    torch.testing.assert_close(join(chunks, 30, 5), song, rtol=0, atol=1e-6)
