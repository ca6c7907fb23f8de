from __future__ import annotations

import errno
import gc
import mmap
import threading
from typing import Any

import pytest
import torch

from stemsplit.backends.torch_core import explain_lack_of_memory
from stemsplit.dsp import memory
from stemsplit.dsp.memory import Blocks, join, new_empty, stack
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
    blocks = Blocks()
    first = blocks.lend((SIZE,), torch.float32)
    place = first.data_ptr()
    view = first[10:20].view(2, 5)
    del first
    second = blocks.lend((SIZE,), torch.float32)
    assert second.data_ptr() != place, "a view still looks at the first"
    view.fill_(7)
    assert not bool((second[10:20] == 7).all())
    del view
    gc.collect()
    assert blocks.lend((SIZE,), torch.float32).data_ptr() == place


def test_a_block_is_not_wasted_on_an_array_much_smaller() -> None:
    blocks = Blocks()
    place = blocks.lend((8 * SIZE,), torch.float32).data_ptr()
    assert blocks.lend((SIZE,), torch.float32).data_ptr() != place
    assert blocks.lend((7 * SIZE,), torch.float32).data_ptr() == place


def test_what_nobody_needs_any_more_goes_back() -> None:
    blocks = Blocks()
    del (lent := [blocks.lend((SIZE,), torch.float32) for _ in range(3)])[:]
    assert not lent
    for _ in range(memory.IDLE_TAKES + 1):
        blocks.lend((4 * SIZE,), torch.float32)
    assert len(blocks._free) + len(blocks._ended) == 1


def test_what_is_not_lent_can_be_released() -> None:
    blocks = Blocks()
    kept = blocks.lend((SIZE,), torch.float32).fill_(1)
    del (lost := [blocks.lend((SIZE,), torch.float32)])[:]
    assert not lost
    blocks.release()
    assert (len(blocks._free), len(blocks._ended), len(blocks._loans)) == (0, 0, 1)
    assert bool((kept == 1).all())


@pytest.mark.parametrize("failures", [1, 2])
def test_lack_of_memory_takes_what_lies_idle_then_says_so(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = Blocks()
    del (lost := [blocks.lend((SIZE,), torch.float32)])[:]
    assert not lost
    real, left = mmap.mmap, [failures]

    def refuse(*args: Any, **options: Any) -> mmap.mmap:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(*args, **options)

    monkeypatch.setattr(mmap, "mmap", refuse)
    if failures == 1:
        assert blocks.lend((4 * SIZE,), torch.float32).shape == (4 * SIZE,)
    else:
        with (
            pytest.raises(DeviceError, match="ran out of memory"),
            explain_lack_of_memory(torch.device("cpu")),
        ):
            blocks.lend((4 * SIZE,), torch.float32)
    assert not blocks._free


def test_threads_never_share_a_block() -> None:
    blocks = Blocks()
    wrong = []

    def work(number: int) -> None:
        for turn in range(200):
            array = blocks.lend((SIZE,), torch.float32)
            array.fill_(number * 1000 + turn)
            if not bool((array == number * 1000 + turn).all()):
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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
