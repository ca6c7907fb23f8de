"""Loudness as ITU-R BS.1770-4 defines it, measured while the samples stream by.

The K-weighting is two second-order filters in a row (BS.1770-4, annex 1, tables 1 and 2). They are
run exactly, but a frame of P samples at a time: with the state s before a frame u,

    y  = T u + O s        T: (P, P), lower triangular: the impulse response
                          O: (P, 4): how the state rings on
    s' = M s + R u        M: (4, 4); R: (4, P)

so that nearly all the work is one matrix product, and the recursion runs over frames only. These
are taken the same way, a group of them at a time.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 64
PIECE_FRAMES = 1024
GROUP_FRAMES = 32
HOPS_PER_BLOCK = 4
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
BIN_LU = 0.01
LOWEST_LUFS, HIGHEST_LUFS = -200.0, 120.0

Samples = NDArray[np.float32]
Matrix = NDArray[np.float64]


class LoudnessMeter:
    """Measure the integrated loudness of a stream of one or two channels.

    Memory is the same for a stream of any length: blocks are counted by their loudness, and only
    one within `BIN_LU` of a gate may stand on its wrong side. All channels weigh the same, as left,
    right and centre do in the standard (a mono stream counts as one channel).
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        """Start at silence.

        Args:
            sample_rate: Hz.
            channels: Rows of every block.
        """
        self._hop = max(1, round(sample_rate / 10))
        filters = _filter_matrices(sample_rate, FRAME_SAMPLES)
        self._response = np.ascontiguousarray(filters.response.T.astype(np.float32))
        self._ringing = np.ascontiguousarray(filters.ringing.T.astype(np.float32))
        self._reach = np.ascontiguousarray(filters.reach.T.astype(np.float32))
        self._group = _group_frames(filters.advance, GROUP_FRAMES)
        most = PIECE_FRAMES // GROUP_FRAMES + 1
        self._groups = _group_frames(self._group.advance, most)
        self._state: Matrix = np.zeros((channels, 4))
        self._waiting: Samples = np.zeros((channels, 0), np.float32)
        self._power: Samples = np.zeros(0, np.float32)
        self._hops: Matrix = np.zeros(0)
        self._blocks = _Blocks()

    def feed(self, block: Samples) -> None:
        """Take the next samples. Shape: (C, n), n from 0 upwards."""
        length = PIECE_FRAMES * FRAME_SAMPLES
        start = 0
        while start < block.shape[1]:
            stop = min(block.shape[1], start + length - self._waiting.shape[1])
            piece = np.concatenate((self._waiting, block[:, start:stop]), axis=1)
            whole = piece.shape[1] - piece.shape[1] % FRAME_SAMPLES
            self._waiting = piece[:, whole:].copy()  # a view would keep all of the piece
            power, self._state = self._weigh(piece[:, :whole])
            self._count(power)
            start = stop

    def integrated_lufs(self, gain: float = 1.0) -> float | None:
        """Return the loudness of everything fed so far, in LUFS.

        Args:
            gain: Linear; the answer is that of the stream multiplied by it.

        Returns:
            None where nothing is above the absolute gate of -70 LUFS: silence, or under 0.4 s.
        """
        blocks = copy.deepcopy(self._blocks)
        blocks.add(self._find_blocks(self._last_hop())[0])
        if not gain:
            return None
        absolute = _power_of(ABSOLUTE_GATE_LUFS) / (gain * gain)
        mean = blocks.mean_above(absolute)
        if mean is None:
            return None
        loud = blocks.mean_above(max(absolute, mean * 10 ** (RELATIVE_GATE_LU / 10)))
        return None if loud is None else _lufs_of(loud * gain * gain)

    def _weigh(self, samples: Samples) -> tuple[Samples, Matrix]:
        """K-weight whole frames. Shape: (C, k * P) -> power summed over channels (k * P), state."""
        channels, length = samples.shape
        frames = length // FRAME_SAMPLES
        if not frames:
            return np.zeros(0, np.float32), self._state
        shaped = samples.reshape(channels, frames, FRAME_SAMPLES)
        before, after = self._run_states(shaped @ self._reach)
        weighted = shaped @ self._response
        weighted += before.astype(np.float32) @ self._ringing
        np.square(weighted, out=weighted)
        return weighted.sum(axis=0).reshape(-1), after

    def _run_states(self, driven: Samples) -> tuple[Matrix, Matrix]:
        """Solve s[k + 1] = M s[k] + driven[k] by products, for groups and in each of them.

        Returns:
            The state before every frame, shape (C, k, 4), and the one after the last, (C, 4).
        """
        channels, frames, _ = driven.shape
        groups = frames // GROUP_FRAMES + 1
        # At least one frame more than there are: the state before it is the one after the last.
        padded = np.zeros((channels, groups * GROUP_FRAMES, 4))
        padded[:, :frames] = driven
        together = padded.reshape(channels, groups, -1)
        ends = (together @ self._group.reach.T).reshape(channels, -1)
        size = ends.shape[1]
        before = ends @ self._groups.response[:size, :size].T
        before += self._state @ self._groups.ringing[:size].T
        before = before.reshape(channels, groups, 4)
        states = together @ self._group.response.T
        states += before @ self._group.ringing.T
        states = states.reshape(channels, -1, 4)
        return states[:, :frames], states[:, frames].copy()

    def _count(self, power: Samples) -> None:
        power = np.concatenate((self._power, power))
        hops = len(power) // self._hop
        self._power = power[hops * self._hop :].copy()
        whole = power[: hops * self._hop].reshape(hops, self._hop)
        powers, self._hops = self._find_blocks(whole.sum(axis=1, dtype=np.float64))
        self._blocks.add(powers)

    def _find_blocks(self, hops: Matrix) -> tuple[Matrix, Matrix]:
        """Return the powers of the blocks that these hops complete, and the hops of the next."""
        hops = np.concatenate((self._hops, hops))
        if len(hops) < HOPS_PER_BLOCK:
            return np.zeros(0), hops
        sums = np.convolve(hops, np.ones(HOPS_PER_BLOCK), mode="valid")
        return sums / (HOPS_PER_BLOCK * self._hop), hops[1 - HOPS_PER_BLOCK :]

    def _last_hop(self) -> Matrix:
        """Finish the hop that ends within a frame that is not full yet, if there is one."""
        rest = self._waiting.shape[1]
        if len(self._power) + rest < self._hop:
            return np.zeros(0)
        padded = np.pad(self._waiting, ((0, 0), (0, FRAME_SAMPLES - rest)))
        power = np.concatenate((self._power, self._weigh(padded)[0][:rest]))
        hops = len(power) // self._hop
        whole = power[: hops * self._hop].reshape(hops, self._hop)
        return np.asarray(whole.sum(axis=1, dtype=np.float64))


class _Blocks:
    """Powers of blocks, counted and summed by their loudness."""

    def __init__(self) -> None:
        size = round((HIGHEST_LUFS - LOWEST_LUFS) / BIN_LU)
        self._counts: Matrix = np.zeros(size)
        self._sums: Matrix = np.zeros(size)

    def add(self, powers: Matrix) -> None:
        """Take more blocks; those below `LOWEST_LUFS` pass no gate, whatever the gain may be."""
        powers = powers[powers > _power_of(LOWEST_LUFS)]
        bins = (-0.691 + 10 * np.log10(powers) - LOWEST_LUFS) / BIN_LU
        places = bins.clip(0, len(self._counts) - 1).astype(np.int64)
        np.add.at(self._counts, places, 1)
        np.add.at(self._sums, places, powers)

    def mean_above(self, gate: float) -> float | None:
        """Return the mean power of the blocks above a gate; None where there is none."""
        there = self._counts > 0
        counts, sums = self._counts[there], self._sums[there]
        passing = sums / counts > gate
        count = float(counts[passing].sum())
        return float(sums[passing].sum()) / count if count else None


class _FilterMatrices(NamedTuple):
    """T, O, M and R. See the module."""

    response: Matrix
    ringing: Matrix
    advance: Matrix
    reach: Matrix


def _filter_matrices(sample_rate: int, frame: int) -> _FilterMatrices:
    """Return T (P, P), O (P, 4), M (4, 4) and R (4, P) of the K-weighting at a rate."""
    shelf, high_pass = _shelf(sample_rate), _high_pass(sample_rate)
    a, b, c, d = _in_series(_state_space(*shelf), _state_space(*high_pass))
    ringing, reach = np.zeros((frame, 4)), np.zeros((4, frame))
    power = np.eye(4)
    impulse = np.zeros(frame)
    for n in range(frame):
        ringing[n] = c @ power
        reach[:, frame - 1 - n] = power @ b
        impulse[n] = d if n == 0 else ringing[n - 1] @ b
        power = a @ power
    response = np.zeros((frame, frame))
    for n in range(frame):
        response[n:, n] = impulse[: frame - n]
    return _FilterMatrices(response, ringing, power, reach)


def _group_frames(advance: Matrix, count: int) -> _FilterMatrices:
    """Return the same four of the frames' states: K frames in a row, their states put out.

    Args:
        advance: M. Shape (4, 4).
        count: K.

    Returns:
        Shapes (4K, 4K), (4K, 4), (4, 4) and (4, 4K).
    """
    powers = [np.eye(4)]
    for _ in range(count):
        powers.append(advance @ powers[-1])
    response = np.zeros((count, 4, count, 4))
    for frame in range(count):
        for earlier in range(frame):
            response[frame, :, earlier] = powers[frame - 1 - earlier]
    ringing = np.concatenate(powers[:-1])
    reach = np.concatenate(powers[-2::-1], axis=1)
    return _FilterMatrices(response.reshape(4 * count, -1), ringing, powers[-1], reach)


Biquad = tuple[tuple[float, float, float], tuple[float, float]]


def _shelf(sample_rate: int) -> Biquad:
    """Return (b0, b1, b2), (a1, a2) of stage 1: +4 dB above 1.7 kHz, for the head.

    The analogue filter behind the standard's coefficients for 48 kHz, transformed bilinearly to
    the rate at hand; at 48 kHz it gives table 1 back.
    """
    k = math.tan(math.pi * min(1681.974450955533 / sample_rate, 0.49))
    q = 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    scale = 1 + k / q + k * k
    b = (high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k)
    return (b[0] / scale, b[1] / scale, b[2] / scale), (
        2 * (k * k - 1) / scale,
        (1 - k / q + k * k) / scale,
    )


def _high_pass(sample_rate: int) -> Biquad:
    """Return (b0, b1, b2), (a1, a2) of stage 2: the high-pass at 38 Hz (table 2 at 48 kHz)."""
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    q = 0.5003270373238773
    scale = 1 + k / q + k * k
    return (1.0, -2.0, 1.0), (2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale)


StateSpace = tuple[Matrix, Matrix, Matrix, float]


def _state_space(b: tuple[float, float, float], a: tuple[float, float]) -> StateSpace:
    """Write a biquad as s' = A s + B u, y = C s + D u (transposed direct form II)."""
    return (
        np.array([[-a[0], 1.0], [-a[1], 0.0]]),
        np.array([b[1] - a[0] * b[0], b[2] - a[1] * b[0]]),
        np.array([1.0, 0.0]),
        b[0],
    )


def _in_series(first: StateSpace, second: StateSpace) -> StateSpace:
    a1, b1, c1, d1 = first
    a2, b2, c2, d2 = second
    return (
        np.block([[a1, np.zeros((2, 2))], [np.outer(b2, c1), a2]]),
        np.concatenate((b1, b2 * d1)),
        np.concatenate((d2 * c1, c2)),
        d1 * d2,
    )


def _lufs_of(power: float) -> float:
    return -0.691 + 10 * math.log10(power)


def _power_of(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))
