from __future__ import annotations

import errno
import gc
import mmap
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit.backends.torch_core import explain_lack_of_memory
from stemsplit.dsp import memory
from stemsplit.dsp.memory import Arena, cat, hand_over, join, new_empty, stack
from stemsplit.errors import DeviceError

SIZE = memory.FEWEST_BYTES // 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_it_is_an_empty_tensor_like_any_other(dtype: torch.dtype) -> None:
    like = torch.zeros(1)
    large = new_empty(like, (2, SIZE), dtype)
    assert (large.shape, large.dtype) == ((2, SIZE), dtype)
    assert large.is_contiguous()
    assert large.data_ptr() % 64 == 0
    large.fill_(3)
    assert large.sum().real == 6 * SIZE
    assert new_empty(like, (3,)).dtype == torch.float32


def test_memory_is_lent_again_once_nothing_looks_at_it() -> None:
    arena = Arena()
    first = arena.lend((SIZE,), torch.float32)
    place = first.data_ptr()
    view = first[10:20].view(2, 5)
    del first
    second = arena.lend((SIZE,), torch.float32)
    assert second.data_ptr() != place, "a view still looks at the first"
    view.fill_(7)
    assert not bool((second[10:20] == 7).all())
    del view
    gc.collect()
    assert arena.lend((SIZE,), torch.float32).data_ptr() == place


def test_neighbours_that_come_back_are_one_piece_again() -> None:
    arena = Arena()
    arrays = [arena.lend((SIZE,), torch.float32) for _ in range(5)]
    place = arrays[0].data_ptr()
    for number in (3, 1, 2, 0):
        arrays[number] = torch.zeros(1)
    assert arena.lend((4 * SIZE,), torch.float32).data_ptr() == place


def test_the_same_work_takes_the_same_places() -> None:
    """A chunk's arrays lie where the last one's lay, however their sizes and lives are mixed."""
    arena, dice = Arena(), random.Random(1)
    turns = [(dice.randint(1, 9), dice.randint(1, 6)) for _ in range(60)]

    def work() -> list[int]:
        held: dict[int, torch.Tensor] = {}
        places = []
        for turn, (size, life) in enumerate(turns):
            held.pop(turn - life, None)
            held[turn] = arena.lend((size * SIZE,), torch.float32)
            places.append(held[turn].data_ptr())
        return places

    first = work()
    highest = max(place + size * SIZE * 4 for place, (size, _) in zip(first, turns, strict=True))
    assert highest - min(first) < sum(size for size, _ in turns) * SIZE * 4 / 2
    assert all(work() == first for _ in range(3))
    assert len(arena._segments) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels may take their time")
def test_what_is_not_lent_can_be_released() -> None:
    arena = Arena()
    kept = arena.lend((SIZE,), torch.float32).fill_(1)
    lost = arena.lend((SIZE,), torch.float32).fill_(2)
    other = Arena()
    del (gone := [other.lend((SIZE,), torch.float32)])[:]
    assert not gone
    place = lost.data_ptr()
    del lost
    arena.release()
    other.release()
    assert bool((kept == 1).all())
    again = arena.lend((SIZE,), torch.float32)
    assert again.data_ptr() == place
    assert not again.any(), "fresh memory is zeros"
    assert not other._segments


def test_an_array_larger_than_a_segment_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SEGMENT_BYTES", 8 * SIZE)
    monkeypatch.setattr(memory, "RATIONED_BYTES", 8 * SIZE)
    arena = Arena()
    arrays = [arena.lend((SIZE * size,), torch.float32).fill_(size) for size in (1, 5, 1)]
    assert len(arena._segments) == 2
    assert all(bool((one == size).all()) for one, size in zip(arrays, (1, 5, 1), strict=True))


def test_few_addresses_are_reserved_where_they_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for rationed, expected in ((False, memory.SEGMENT_BYTES), (True, memory.RATIONED_BYTES)):
        monkeypatch.setattr(memory, "are_addresses_rationed", lambda rationed=rationed: rationed)
        arena = Arena()
        arena.lend((SIZE,), torch.float32)
        assert [len(segment.memory) for segment in arena._segments] == [expected]


def test_a_limit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    unlimited, limited = (resource.RLIM_INFINITY,) * 2, (1 << 32, resource.RLIM_INFINITY)
    monkeypatch.setattr(Path, "read_text", lambda _: "0\n")
    for limits, expected in ((unlimited, False), (limited, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert memory.are_addresses_rationed() == expected
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    monkeypatch.setattr(Path, "read_text", lambda _: "2\n")
    assert memory.are_addresses_rationed()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_lack_of_memory_takes_what_lies_idle_then_says_so(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SEGMENT_BYTES", 4 * SIZE)
    monkeypatch.setattr(memory, "RATIONED_BYTES", 4 * SIZE)
    arena = Arena()
    del (lost := [arena.lend((SIZE,), torch.float32)])[:]
    assert not lost
    real, left = mmap.mmap, [failures]

    def refuse(*args: Any, **options: Any) -> mmap.mmap:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(*args, **options)

    monkeypatch.setattr(mmap, "mmap", refuse)
    if failures < 3:
        assert arena.lend((4 * SIZE,), torch.float32).shape == (4 * SIZE,)
        assert len(arena._segments) == (2 if failures == 1 else 1), "the last way is to forget"
    else:
        with (
            pytest.raises(DeviceError, match="ran out of memory"),
            explain_lack_of_memory(torch.device("cpu")),
        ):
            arena.lend((4 * SIZE,), torch.float32)
        assert not arena._segments


def test_threads_never_share_a_piece() -> None:
    arena = Arena()
    wrong = []

    def work(number: int) -> None:
        for turn in range(200):
            array = arena.lend((SIZE,), torch.float32)
            array.fill_(number * 1000 + turn)
            if not bool((array == number * 1000 + turn).all()):
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_thread_has_its_own_arena_and_leaves_it_to_the_next() -> None:
    like = torch.zeros(1)
    own: list[int] = []
    kept: list[torch.Tensor] = []

    def work() -> None:
        memory.use_own_arena()
        array = new_empty(like, (SIZE,)).fill_(3)
        own.append(array.data_ptr())
        kept.append(hand_over(array))

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert own[0] == own[1], "the second thread took over what the first had"
    assert all(bool((one == 3).all()) for one in kept)
    assert not {one.data_ptr() for one in kept} & set(own), "what is handed over lies elsewhere"
    assert hand_over(kept[0]) is kept[0]


def test_what_idles_in_other_arenas_is_had_when_memory_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idle = Arena()
    del (lost := [idle.lend((SIZE,), torch.float32)])[:]
    assert not lost
    monkeypatch.setattr(memory, "_ALL", [memory._COMMON, idle])
    monkeypatch.setattr(memory, "_COMMON", Arena())
    real = mmap.mmap

    def ration(*args: Any, **options: Any) -> mmap.mmap:
        if idle._segments:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(*args, **options)

    monkeypatch.setattr(mmap, "mmap", ration)
    assert new_empty(torch.zeros(1), (SIZE,)).shape == (SIZE,)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests' threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    with memory._COMMON._lock:
        child = os.fork()
        if child == 0:
            # The lock is somebody else's, who does not exist here.
            failed = 1
            try:
                failed = int(not bool((new_empty(torch.zeros(1), (SIZE,)).fill_(1) == 1).all()))
            finally:
                os._exit(failed)
    assert os.waitpid(child, 0)[1] == 0


def test_gradients_pass_through_what_is_written_there() -> None:
    weight = torch.ones(SIZE, requires_grad=True)
    copy = new_empty(weight, (SIZE,))
    copy[:] = 2 * weight
    copy.sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad == 2).all())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_a_stack_is_torchs(count: int, large: bool, learns: bool) -> None:
    shape = (2, SIZE if large else 5)
    parts = [torch.randn(shape, requires_grad=learns) for _ in range(count)]
    stacked = stack(parts)
    assert torch.equal(stacked, torch.stack(parts, dim=1))
    assert stacked.requires_grad == learns


def test_a_stack_of_which_one_part_learns_keeps_its_gradient() -> None:
    parts = [torch.randn(1, SIZE), torch.randn(1, SIZE, requires_grad=True)]
    stack(parts).sum().backward()
    assert parts[1].grad is not None


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_a_stack_can_be_traced() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return stack([x, 2 * x])

    traced = torch.jit.trace(double, torch.zeros(1, SIZE))
    x = torch.randn(1, SIZE)
    assert torch.equal(traced(x), torch.stack([x, 2 * x], dim=1))


def test_joined_pieces_are_a_copy() -> None:
    pieces = [torch.randn(2, count) for count in (SIZE, 3, 1)]
    assert torch.equal(join(pieces), torch.cat(pieces, dim=-1))
    (piece,) = pieces[:1]
    copied = join([piece])
    assert torch.equal(copied, piece)
    assert copied.data_ptr() != piece.data_ptr()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("learns", [False, True])
def test_images_are_put_together_as_torch_does(
    layout: torch.memory_format, dim: int, learns: bool
) -> None:
    dice = torch.Generator().manual_seed(dim)
    images = [torch.randn(1, 8, 100, 99, generator=dice) for _ in range(3)]
    images = [one.contiguous(memory_format=layout).requires_grad_(learns) for one in images]
    whole = cat(images, dim)
    assert torch.equal(whole, torch.cat(images, dim))
    assert whole.is_contiguous(memory_format=layout)
    assert whole.requires_grad == learns
    mixed = cat([images[0].detach().bfloat16(), images[1].detach()], dim)
    assert mixed.dtype == torch.float32
