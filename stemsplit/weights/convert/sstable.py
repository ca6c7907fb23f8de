"""LevelDB's sorted string table, which is what a TensorFlow index file is.

    data blocks ... | metaindex block | index block | footer (48 bytes)
    footer: handle of the metaindex, handle of the index, padding, magic number
    handle: offset and size of a block as varints
    block:  entries, restart offsets (32 bits each), their count; then a byte for the compression
            and the masked CRC-32C of both
    entry:  bytes shared with the previous key, bytes of its own, bytes of the value; then the two

Google, LevelDB, doc/table_format.md; the compression is Snappy's, format_description.txt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from stemsplit.weights.convert.crc32c import compute_crc32c, mask_crc

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48
_TRAILER = 5
_LONGEST_KEY = 4096
_LARGEST_BLOCK = 1 << 26


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, in its order.

    Args:
        data: The whole file.

    Raises:
        ValueError: It is no such table, or damaged.
    """
    if len(data) < _FOOTER or data[-len(MAGIC) :] != MAGIC:
        raise ValueError("no table: its end lacks the magic number")
    footer = data[-_FOOTER:]
    _, at = _read_handle(footer, 0)
    index, _ = _read_handle(footer, at)
    previous: bytes | None = None
    for _, value in _read_entries(_read_block(data, *index)):
        handle, _ = _read_handle(value, 0)
        for key, item in _read_entries(_read_block(data, *handle)):
            if previous is not None and key <= previous:
                raise ValueError("keys out of order")
            previous = key
            yield key, item


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and the place behind it.

    Raises:
        ValueError: The data end before it does, or it is longer than 64 bits.
    """
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number that is cut off")
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return number, at
    raise ValueError("a number of more than 64 bits")


def _read_handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _read_block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise ValueError("a block outside the file")
    compression = data[end]
    (stored,) = struct.unpack_from("<I", data, end + 1)
    if stored != mask_crc(compute_crc32c(data[offset : end + 1])):
        raise ValueError("a block whose checksum is wrong")
    if compression == 0:
        return data[offset:end]
    if compression == 1:
        return decompress_snappy(data[offset:end])
    raise ValueError(f"a block of compression {compression}")


def _read_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's keys and values; the restarts, which only speed up a search, are skipped."""
    if len(block) < 4:
        raise ValueError("a block without its end")
    end = len(block) - 4 - 4 * struct.unpack_from("<I", block, len(block) - 4)[0]
    if end < 0:
        raise ValueError("a block with more restarts than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        own, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or shared + own > _LONGEST_KEY or at + own + length > end:
            raise ValueError("an entry outside its block")
        key = key[:shared] + block[at : at + own]
        at += own + length
        yield key, block[at - length : at]


def decompress_snappy(data: bytes) -> bytes:
    """Return what Snappy made shorter: literal bytes, and copies of earlier output.

    Args:
        data: One raw block: the length of the output, then the elements.

    Raises:
        ValueError: It is damaged, or its output larger than any block is.
    """
    size, at = read_varint(data, 0)
    if size > _LARGEST_BLOCK:
        raise ValueError(f"a compressed block of {size} bytes")
    result = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        kind, upper = tag & 3, tag >> 2
        # How many bytes follow the tag: a literal's long length, or a copy's offset.
        extra = max(0, upper - 59) if kind == 0 else (1, 2, 4)[kind - 1]
        if at + extra > len(data):
            raise ValueError("a compressed block that is cut off")
        number, at = int.from_bytes(data[at : at + extra], "little"), at + extra
        if kind == 0:
            length = (number if extra else upper) + 1
            if at + length > len(data):
                raise ValueError("a compressed block that is cut off")
            result += data[at : at + length]
            at += length
        else:
            length = 4 + (upper & 7) if kind == 1 else 1 + upper
            back = number | (upper >> 3 << 8) if kind == 1 else number
            if not 0 < back <= len(result):
                raise ValueError("a compressed block that copies from before its beginning")
            # A copy may run into its own output: it then repeats the last `back` bytes.
            source = bytes(result[-back:])
            result += (source * (length // back + 1))[:length]
        if len(result) > size:
            break
    if len(result) != size:
        raise ValueError("a compressed block of another length than it says")
    return bytes(result)
