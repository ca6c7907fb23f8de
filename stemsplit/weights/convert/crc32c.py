"""CRC-32C (Castagnoli) of large buffers at NumPy's speed, and TensorFlow's masked form of it.

A CRC is linear over GF(2). With R(m) the remainder of m from a register of zeros, and Z_n the 32x32
bit matrix that n zero bytes apply to a register:

    R(a | b) = Z_len(b) R(a) xor R(b),      crc(m) = ~(R(m) xor Z_len(m) ~0)

So the buffer is cut into 2**k lanes of one width that advance together, a byte a step, and are
joined in pairs. Zeros in front of a message leave R unchanged: they fill the first lane.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bits reversed
_ONES = 0xFFFFFFFF
_WIDTH = 512  # bytes per lane at the least: fewer lanes cost steps, more lanes cost joins
_MASK_DELTA = 0xA282EAD8


def _make_table() -> Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


_TABLE = _make_table()
_BITS: Words = np.uint32(1) << np.arange(32, dtype=np.uint32)


def compute_crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of a buffer.

    Args:
        data: Any number of bytes, none included.
    """
    message = np.frombuffer(data, np.uint8)
    lanes = 1 << max(0, (len(message) // _WIDTH).bit_length() - 1)
    width = -(-len(message) // lanes)
    padded = np.zeros(lanes * width, np.uint8)
    padded[lanes * width - len(message) :] = message
    registers = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, width).T):
        registers = _step(registers ^ column)
    join = _zeros(width)
    while len(registers) > 1:
        registers = _apply(join, registers[0::2]) ^ registers[1::2]
        join = _apply(join, join)
    start = _apply(_zeros(len(message)), np.array([_ONES], np.uint32))
    return int(registers[0] ^ start[0]) ^ _ONES


def mask_crc(crc: int) -> int:
    """Return the CRC as TensorFlow and LevelDB store it: rotated, and moved by a constant."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ONES


def _step(registers: Words) -> Words:
    """Advance registers, whose lowest byte has the message's in it already, by that byte."""
    result: Words = _TABLE[registers & 0xFF] ^ (registers >> 8)
    return result


def _apply(matrix: Words, registers: Words) -> Words:
    """Multiply registers by a matrix, whose rows are the images of the single bits."""
    result: Words = np.zeros_like(registers)
    for bit in range(32):
        result ^= ((registers >> bit) & 1) * matrix[bit]
    return result


def _zeros(count: int) -> Words:
    """Return the matrix of `count` zero bytes, by squaring that of one."""
    result = _BITS
    power = _step(_BITS)
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result
