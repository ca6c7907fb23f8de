"""Work that knows nothing of neighbouring frames or sequences, done for a few of them at a time.

What lies between two convolutions over frames (matrices over frequency, gates, sums) can be
computed for some frames, then for the next: its arrays are then those of some frames, and stay in a
processor's cache. So it is with recurrent layers over many sequences.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from stemsplit.dsp.memory import is_recorded, new_image
from stemsplit.dsp.threads import run_pieces

NUMBERS_AT_ONCE = 1 << 20
"""Of what comes out: 4 MiB. Matrices are read once for each."""
FEWEST_NUMBERS = 1 << 16
"""Of what comes out, that are worth a thread."""
SEQUENCE_NUMBERS_AT_ONCE = 1 << 19
"""Of what goes in: a recurrent layer makes about ten of each."""


def by_frames(
    work: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    training: bool,
    may_replace: bool = False,
    grows: int = 1,
) -> Tensor:
    """Return `work(x)`, in evaluation on a processor some frames at a time.

    Args:
        work: Takes frames to frames, as many or twice as many, each for itself.
        x: Shape (B, C, N, F).
        training: Whether norms look at all frames.
        may_replace: Whether the result may be written over `x`, if it is of the same shape.
        grows: How many numbers come out, or lie in between, for each that goes in.

    Returns:
        Shape (B', C', N', F').
    """
    if _is_whole(x, training):
        return work(x)
    frames = x.shape[2]
    per_frame = grows * x[:, :, :1].numel()
    pieces = -(-frames // max(1, NUMBERS_AT_ONCE // per_frame))
    threads = 1 if torch.is_grad_enabled() else torch.get_num_threads()
    if frames * per_frame >= threads * FEWEST_NUMBERS:
        pieces = -(-pieces // threads) * threads
    step = -(-frames // pieces)
    if frames <= step:
        return work(x)
    may_replace = may_replace and not torch.is_grad_enabled()
    goal: list[Tensor] = []
    first_of_all = threading.Lock()

    def run(start: int) -> None:
        part = x[:, :, start : start + step]
        given = work(part)
        batch, channels, count, bins = given.shape
        with first_of_all:
            if not goal:
                fits = given.shape == part.shape and given.dtype == x.dtype
                shape = (batch, channels, frames * count // part.shape[2], bins)
                goal.append(x if may_replace and fits else new_image(given, shape))
        first = start * goal[0].shape[2] // frames
        goal[0][:, :, first : first + count] = given

    run_pieces([partial(run, start) for start in range(0, frames, step)])
    return goal[0]


def by_sequences(work: Callable[[Tensor], Tensor], x: Tensor, *, training: bool) -> Tensor:
    """Return `work(x)`, in evaluation on a processor some sequences at a time.

    Args:
        work: Takes sequences to as many of the same size, each for itself.
        x: Shape (B, L, W). May be overwritten where no gradient is asked for.
        training: Whether all are to be taken at once.

    Returns:
        Shape (B, L, W).
    """
    if _is_whole(x, training) or torch.is_grad_enabled():
        return work(x)
    step = max(1, SEQUENCE_NUMBERS_AT_ONCE * len(x) // x.numel())
    if len(x) <= step:
        return work(x)
    for part in x.split(step):
        part.copy_(work(part))
    return x


def _is_whole(x: Tensor, training: bool) -> bool:
    return training or x.device.type != "cpu" or is_recorded(x)
