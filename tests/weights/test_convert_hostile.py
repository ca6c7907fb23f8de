"""Files made to do harm: each is refused, nothing of theirs runs, and memory stays small.

One file, so that an attack which is known for one format is seen to be missing for another.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import re
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stemsplit.errors import CheckpointError, StemsplitError, UnsafeWeightsError
from stemsplit.weights.convert import read_checkpoint, read_weights, sniff_format, write_safetensors

LARGEST_MEMORY = 64 << 20
SIXTEEN = {"0": bytes(16)}
SYSTEM = b"cos\nsystem\n"


def text(value: str) -> bytes:
    """The BINUNICODE instruction."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """The LONG1 instruction."""
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


@pytest.fixture
def crime(tmp_path: Path) -> Path:
    """What would be there if anything ran."""
    return tmp_path / "crime"


@pytest.fixture(autouse=True)
def _is_harmless(crime: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not crime.exists()
    assert peak < LARGEST_MEMORY


def make_stream(path: Path, program: bytes) -> Path:
    path.write_bytes(program)
    return path


def make_zip(path: Path, program: bytes, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/version", "3\n")
        for key, data in (storages or {}).items():
            archive.writestr(f"x/data/{key}", data)
    return path


def make_legacy(path: Path, program: bytes) -> Path:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + program)
    return path


MAKERS = (make_stream, make_zip, make_legacy)


class Crime:
    """An object whose unpickling by Python's own machine runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("protocol", range(6))
def test_a_command_is_refused_by_name_in_every_container_and_protocol(
    tmp_path: Path, crime: Path, make: Callable[[Path, bytes], Path], protocol: int
) -> None:
    program = pickle.dumps({"weights": np.ones(2), "crime": Crime(crime)}, protocol)
    path = make(tmp_path / "poisoned.pt", program)
    with pytest.raises(UnsafeWeightsError, match=r"poisoned\.pt .*'(posix|nt)\.system'") as caught:
        read_weights(path, "torch-pickle")
    assert "nothing was run" in caught.value.message


REFUSED = {
    "reduce": (SYSTEM + text("id") + b"\x85R.", "'os.system'"),
    "a name alone": (SYSTEM + b".", "'os.system'"),
    "a name and then dropped": (SYSTEM + b"0}.", "'os.system'"),
    "stacked name": (text("os") + text("system") + b"\x93.", "'os.system'"),
    "dotted stacked name": (
        text("collections") + text("OrderedDict.fromkeys") + b"\x93.",
        "'collections.OrderedDict.fromkeys'",
    ),
    "instance": (b"(" + text("id") + b"ios\nsystem\n.", "'os.system'"),
    "object": (b"(" + SYSTEM + text("id") + b"o.", "'os.system'"),
    "new object": (b"csubprocess\nPopen\n" + text("id") + b"\x85\x81.", "'subprocess.Popen'"),
    "new object with keywords": (b"csubprocess\nPopen\n)}\x92.", "'subprocess.Popen'"),
    "state": (b"cbuiltins\nobject\n}" + text("__setstate__") + SYSTEM + b"sb.", "builtins.object"),
    "eval": (b"cbuiltins\neval\n" + text("1") + b"\x85R.", "'builtins.eval'"),
    "python 2 builtins": (b"c__builtin__\neval\n.", "'__builtin__.eval'"),
    "getattr": (b"cbuiltins\ngetattr\n.", "'builtins.getattr'"),
    "import": (b"cbuiltins\n__import__\n.", "'builtins.__import__'"),
    "another pickle": (b"cpickle\nloads\n.", "'pickle.loads'"),
    "numpy's own loader": (b"cnumpy\nload\n.", "'numpy.load'"),
    "torch's own loader": (b"ctorch\nload\n.", "'torch.load'"),
    "a whole module": (b"ctorch.nn.modules.linear\nLinear\n.", "Linear"),
    "a script": (b"c__torch__.net\nNet\n)\x81.", "'__torch__.net.Net'"),
    "a sparse tensor": (b"ctorch._utils\n_rebuild_sparse_tensor\n.", "_rebuild_sparse_tensor"),
    "a quantized tensor": (b"ctorch._utils\n_rebuild_qtensor\n.", "_rebuild_qtensor"),
    "a path": (b"cpathlib\nPosixPath\n.", "'pathlib.PosixPath'"),
    "extension 1": (b"\x82\x01.", "EXT1"),
    "extension 2": (b"\x83\x01\x00.", "EXT2"),
    "extension 4": (b"\x84\x01\x00\x00\x00.", "EXT4"),
    "a buffer from outside": (b"\x97.", "NEXT_BUFFER"),
    "a persistent id in text": (b"Pos.system\n.", "PERSID"),
    "a call of a text": (text("os.system") + text("id") + b"\x85R.", "a call of a str"),
    "a call of a value": (b"}" + text("id") + b"\x85R.", "a call of a dict"),
    "an allocation": (
        b"cnumpy\nndarray\n" + number(10**12) + b"\x85\x85R.",
        "a call of 'numpy.ndarray'",
    ),
    "a storage from nothing": (
        b"ctorch\nFloatStorage\n" + number(10**12) + b"\x85R.",
        "a call of 'torch.FloatStorage'",
    ),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("program", "asked"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_pickle_must_not_ask_for(
    tmp_path: Path, make: Callable[[Path, bytes], Path], program: bytes, asked: str
) -> None:
    path = make(tmp_path / "poisoned.pt", b"\x80\x02" + program)
    with pytest.raises(UnsafeWeightsError, match=re.escape(asked)) as caught:
        read_weights(path, "torch-pickle")
    assert str(path) in caught.value.message


@pytest.mark.parametrize("make", [make_stream])
def test_a_persistent_id_in_a_plain_pickle(
    tmp_path: Path, make: Callable[[Path, bytes], Path]
) -> None:
    path = make(tmp_path / "poisoned.pkl", b"\x80\x02" + text("os.system") + b"Q.")
    with pytest.raises(UnsafeWeightsError, match="persistent id"):
        read_weights(path, "torch-pickle")


def test_nothing_is_imported_for_an_inert_name(
    tmp_path: Path, crime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap_module.py").write_text(f"open({str(crime)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = b"\x80\x02}" + text("a") + b"ctrap_module\nTrap\n" + text("x") + b"\x85R}"
    path = make_zip(tmp_path / "x.ckpt", program + text("state") + b"K\x01sbs.")
    with pytest.raises(UnsafeWeightsError, match=r"'trap_module\.Trap'"):
        read_checkpoint(path, "torch-pickle")
    read = read_checkpoint(path, "torch-pickle", inert=frozenset({"trap_module.Trap"}))
    assert read.metadata == {"a.state": 1}
    assert "trap_module" not in sys.modules


def test_an_inert_object_is_not_called(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.ckpt", b"\x80\x02ca\nb\n)R" + text("id") + b"\x85R.")
    with pytest.raises(UnsafeWeightsError, match="a call of a Inert"):
        read_checkpoint(path, "torch-pickle", inert=frozenset({"a.b"}))


def numpy_array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    """A plain pickle of {"a": array} with these parts."""
    return (
        b"\x80\x03}" + text("a") + b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85C\x01b\x87R(K\x01" + shape + dtype + b"\x89" + data + b"tbs."
    )


FLOAT32 = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R"


def laughs(levels: int) -> bytes:
    """A list of ten times the list of ten times the list ...: 10**levels entries."""
    program = b"\x80\x02]q\x00K\x01a"
    for level in range(levels):
        program += b"](" + (b"h" + bytes([level])) * 10 + b"eq" + bytes([level + 1])
    return program + b"."


DAMAGED = {
    "empty": (b"", "instruction|STOP|exhausted"),
    "no pickle": (b"hello", "pickle"),
    "a web page": (b"<!DOCTYPE html><html></html>", "pickle"),
    "cut off": (pickle.dumps({"a": np.ones(9)}, 2)[:-30], "pickle"),
    "nothing on the stack": (b"\x80\x02.", "without its operand"),
    "a call without operands": (b"\x80\x02R.", "without its operand"),
    "three of one": (b"\x80\x02K\x01\x87.", "without its operand"),
    "a negative memo": (b"\x80\x02}p-1\n.", "a memo without a number"),
    "an end without a mark": (b"\x80\x02t.", "without its mark"),
    "elements for nothing": (b"\x80\x02(K\x01e.", "without its operand"),
    "elements for a number": (b"\x80\x02K\x01(K\x01e.", "elements for a int"),
    "items for a number": (b"\x80\x02K\x01(K\x01K\x01u.", "keys and values for a int"),
    "an odd dict": (b"\x80\x02}(K\x01u.", "keys and values"),
    "a memo that is not there": (b"\x80\x02h\x09.", "never remembered"),
    "a protocol of the future": (b"\x80\x06}.", "protocol 6"),
    "attributes for a name": (b"\x80\x02cnumpy\nndarray\n}b.", "attributes for a Name"),
    "attributes for a text": (b"\x80\x02" + text("a") + b"}b.", "attributes for a str"),
    "keywords for a dict": (b"\x80\x02ccollections\nOrderedDict\n)}\x92.", "keyword arguments"),
    "a list as a key": (b"\x80\x02}]K\x01s.", "a list as a key"),
    "a tuple as a key": (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.", "a tuple as a key"),
    "deep lists": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "64 deep"),
    "deep tuples": (b"\x80\x02)" + b"\x85" * 200_000 + b".", "64 deep"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "64 deep"),
    "a dict in itself": (b"\x80\x02}q\x00" + text("a") + b"h\x00s.", "64 deep"),
    "a thousand million laughs": (laughs(9), "more than 200000 values"),
    "a text copied a million times": (
        b"\x80\x02]c_codecs\nencode\nq\x00" + text("x" * 1_000_000) + text("latin1") + b"\x86q\x010"
        b"(" + b"h\x00h\x01R" * 10_000 + b"e.",
        "more copies of its own parts",
    ),
    "a list copied a million times": (
        b"\x80\x02]ccollections\nOrderedDict\nq\x00](" + b"K\x01K\x02\x86" * 10_000 + b"e\x85q\x010"
        b"(" + b"h\x00h\x01R" * 10_000 + b"e.",
        "more copies of its own parts",
    ),
    "an array larger than its numbers": (
        numpy_array(number(10**12) + b"\x85", FLOAT32, b"C\x04abcd"),
        "4 bytes in place of 4000000000000",
    ),
    "an array of absurd sizes": (
        numpy_array(number(10**200) + b"\x85", FLOAT32, b"C\x04abcd"),
        "without a dtype or a shape",
    ),
    "an array of negative size": (
        numpy_array(number(-1) + b"\x85", FLOAT32, b"C\x04abcd"),
        "without a dtype or a shape",
    ),
    "an array of too many axes": (
        numpy_array(b"(" + b"K\x01" * 40 + b"t", FLOAT32, b"C\x04abcd"),
        "without a dtype or a shape",
    ),
    "an array of objects": (
        numpy_array(b"K\x01\x85", b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R", b"]"),
        "a dtype that is no number",
    ),
    "an array of records": (
        numpy_array(b"K\x01\x85", b"cnumpy\ndtype\n" + text("V4") + b"\x89\x88\x87R", b"C\x00"),
        "a dtype that is no number",
    ),
    "a dtype with fields": (
        numpy_array(
            b"K\x01\x85",
            FLOAT32 + b"(K\x03" + text("<") + b"N" + text("f") + b"\x85}tb",
            b"C\x04abcd",
        ),
        "fields or sub-arrays",
    ),
    "an array whose numbers are a list": (numpy_array(b"K\x01\x85", FLOAT32, b"]"), "no bytes"),
    "an array without numbers": (
        b"\x80\x03}" + text("a") + b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85C\x01b\x87Rs.",
        "an array without numbers",
    ),
    "a wrong escape": (b"(S'\\y'\nios\nx\n.", "pickle"),
}


RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
CALLS = {
    "a dtype of another state": (FLOAT32 + b")b", "a dtype with an unknown state"),
    "a dtype of an unknown order": (
        FLOAT32 + b"(K\x03" + text("?") + b"NNNtb",
        "a dtype with an unknown state",
    ),
    "an array of another state": (
        RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R)b",
        "an array with an unknown state",
    ),
    "an array of another class": (
        RECONSTRUCT + b"ctorch\nfloat32\nK\x00\x85C\x01b\x87R",
        "no plain array",
    ),
    "an array of few parts": (RECONSTRUCT + b")R", "no plain array"),
    "a buffer of few parts": (b"cnumpy._core.numeric\n_frombuffer\n)R", "0 arguments"),
    "a scalar of few parts": (b"cnumpy._core.multiarray\nscalar\n)R", "0 arguments"),
    "a scalar of few bytes": (
        b"cnumpy._core.multiarray\nscalar\n" + FLOAT32 + b"C\x01a\x86R",
        "1 bytes in place of 4",
    ),
    "a dtype of nothing": (b"cnumpy\ndtype\n)R", "a dtype that is no number"),
    "bytes of another encoding": (
        b"c_codecs\nencode\n" + text("a") + text("idna") + b"\x86R",
        "no text to be encoded",
    ),
    "bytes of no text": (b"c_codecs\nencode\nK\x01" + text("latin1") + b"\x86R", "no text"),
    "bytes of wide letters": (
        b"c_codecs\nencode\n" + text("\u20ac") + text("latin1") + b"\x86R",
        "latin-1",
    ),
    "a million million bytes": (
        b"c__builtin__\nbytes\n" + number(10**12) + b"\x85R",
        "1 arguments in place of none",
    ),
    "a dict of a number": (b"ccollections\nOrderedDict\nK\x01\x85R", "no list of pairs"),
    "a dict of numbers": (b"ccollections\nOrderedDict\n](K\x01e\x85R", "no list of pairs"),
    "a dict with lists for keys": (
        b"ccollections\nOrderedDict\n](]K\x01\x86e\x85R",
        "no list of pairs",
    ),
    "a size of texts": (b"ctorch\nSize\n" + text("a") + b"\x85\x85R", "no tuple of sizes"),
    "a size of nothing": (b"ctorch\nSize\n)R", "no tuple of sizes"),
    "a tensor of few parts": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "0 arguments"),
    "arguments that are no tuple": (b"ctorch\nSize\n]R", "without arguments"),
    "a memo of nothing": (b"(q\x00", "without its operand"),
    "an object of nothing": (b"(o", "without its operand"),
    "a name that is a number": (b"K\x01K\x02\x93", "whose name is no text"),
}


@pytest.mark.parametrize(("call", "reason"), CALLS.values(), ids=CALLS.keys())
def test_what_a_known_name_must_not_be_called_with(
    tmp_path: Path, call: bytes, reason: str
) -> None:
    path = make_zip(tmp_path / "damaged.pt", b"\x80\x02(l" + call + b"a.")
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        read_weights(path, "torch-pickle")


STORAGES = {
    "no tuple": (text("storage"), "no storage"),
    "another kind": (text("module") + b"NNNN\x85\x86", "no storage"),
    "few parts": (text("storage") + b"\x85", "no storage"),
    "a view": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04)t",
        "a view of another",
    ),
}


@pytest.mark.parametrize(("identity", "reason"), STORAGES.values(), ids=STORAGES.keys())
def test_what_a_storage_must_not_be(tmp_path: Path, identity: bytes, reason: str) -> None:
    path = make_zip(tmp_path / "damaged.pt", b"\x80\x02](" + identity + b"Qe.", SIXTEEN)
    with pytest.raises(CheckpointError, match=reason):
        read_weights(path, "torch-pickle")


def test_a_storage_of_two_types(tmp_path: Path) -> None:
    program = b"\x80\x02](" + tensor()[2:-1] + tensor(kind=b"IntStorage")[2:-1] + b"e."
    path = make_zip(tmp_path / "damaged.pt", program, SIXTEEN)
    with pytest.raises(CheckpointError, match="two types or sizes"):
        read_weights(path, "torch-pickle")


@pytest.mark.parametrize(("program", "reason"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_a_damaged_pickle_is_told(tmp_path: Path, program: bytes, reason: str) -> None:
    path = make_stream(tmp_path / "damaged.pkl", program)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_weights(path, "torch-pickle")
    assert str(path) in caught.value.message


def tensor(
    *,
    kind: bytes = b"FloatStorage",
    key: bytes | None = None,
    count: int = 4,
    offset: int = 0,
    shape: bytes = b"K\x04\x85",
    strides: bytes = b"K\x01\x85",
) -> bytes:
    """A pickle of {"x": tensor} with these parts."""
    return (
        b"\x80\x02}" + text("x") + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage") + b"ctorch\n" + kind + b"\n" + (key or text("0")) + text("cpu")
        + number(count) + b"tQ" + number(offset) + shape + strides + b"\x89)tRs."
    )  # fmt: skip


TENSORS: dict[str, tuple[bytes, str]] = {
    "a storage that is not there": (tensor(key=text("1")), "it lacks its member 'x/data/1'"),
    "a storage outside the file": (tensor(key=text("../../../etc/passwd")), "it lacks its member"),
    "an absolute storage": (tensor(key=text("/etc/passwd")), "it lacks its member"),
    "a key that is no text": (tensor(key=b"K\x00"), "without a key"),
    "more numbers than stored": (tensor(count=10**12), "in place of 4000000000000"),
    "fewer numbers than stored": (tensor(count=3, shape=b"K\x03\x85"), "16 bytes for storage"),
    "a negative count": (tensor(count=-1), "without a key or a size"),
    "an unknown storage": (tensor(kind=b"Size"), "of an unknown type"),
    "an offset outside": (tensor(offset=4), "reaches number 7"),
    "a negative offset": (tensor(offset=-1), "no counts"),
    "a size outside": (tensor(shape=number(10**12) + b"\x85"), "reaches number 999999999999"),
    "an absurd size": (tensor(shape=number(10**200) + b"\x85"), "no counts"),
    "a stride outside": (tensor(strides=number(2) + b"\x85"), "reaches number 6"),
    "a negative stride": (tensor(strides=number(-1) + b"\x85"), "no counts"),
    "one number for a million million": (
        tensor(shape=number(10**12) + b"\x85", strides=b"K\x00\x85"),
        "1000000000000 numbers made of 4",
    ),
    "sizes without strides": (tensor(strides=b")"), "1 sizes and 0 strides"),
    "sizes that are a list": (tensor(shape=b"]"), "no counts"),
    "nothing of an absurd size": (
        tensor(shape=number(1 << 61) + b"K\x00" + number(1 << 61) + b"\x87", strides=b")))\x87"),
        "no counts",
    ),
    "a huge nothing": (
        tensor(shape=number(1 << 61) + b"K\x00\x86", strides=number(1 << 61) + b"K\x01\x86"),
        "it holds",
    ),
    "a tensor without a storage": (
        b"\x80\x02}" + text("x") + b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tRs.",
        "without a storage",
    ),
    "a parameter without a tensor": (
        b"\x80\x02}" + text("x") + b"ctorch._utils\n_rebuild_parameter\n(NK\x00)tRs.",
        "without a tensor",
    ),
}


@pytest.mark.parametrize(("program", "reason"), TENSORS.values(), ids=TENSORS.keys())
def test_what_a_tensor_must_not_be(tmp_path: Path, program: bytes, reason: str) -> None:
    path = make_zip(tmp_path / "damaged.pt", program, SIXTEEN)
    with pytest.raises(CheckpointError, match=re.escape(reason)) as caught:
        read_weights(path, "torch-pickle")
    assert str(path) in caught.value.message


def test_the_tensor_that_the_hostile_ones_vary_is_fine(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "fine.pt", tensor(), SIXTEEN)
    np.testing.assert_array_equal(read_weights(path, "torch-pickle")["x"], np.zeros(4))


LEGACY = {
    "storages cut off": (pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(15), "15 bytes"),
    "storages missing": (pickle.dumps(["0"], 2), "storage '0' is missing"),
    "another count": (pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 40), "1099511627776 numbers"),
    "a negative count": (pickle.dumps(["0"], 2) + struct.pack("<q", -4), "-4 numbers"),
    "a storage of no tensor": (pickle.dumps(["0", "9"], 2) + struct.pack("<q16x", 4), "'9'"),
    "a tensor of no storage": (pickle.dumps([], 2), "no numbers for storage '0'"),
    "keys that are no list": (pickle.dumps(7, 2), "without keys"),
    "no keys": (b"", "pickle"),
}


@pytest.mark.parametrize(("tail", "reason"), LEGACY.values(), ids=LEGACY.keys())
def test_what_a_legacy_file_must_not_be(tmp_path: Path, tail: bytes, reason: str) -> None:
    path = make_legacy(tmp_path / "damaged.pt", tensor() + tail)
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        read_weights(path, "torch-pickle")


@pytest.mark.parametrize("head", [(1002, {"little_endian": True}), (1001, ["little_endian"])])
def test_an_unknown_version_of_the_legacy_format(tmp_path: Path, head: tuple[object, ...]) -> None:
    path = tmp_path / "damaged.pt"
    parts = (0x1950A86A20F9469CFC6C, *head, {"lr": 0.1}, [])
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(CheckpointError, match="unknown version of torch's legacy format"):
        read_weights(path, "torch-pickle")


def zip_bytes(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def overlapping_zip() -> bytes:
    """A megabyte that a thousand members share: a gigabyte for whoever adds them up."""
    data = zip_bytes([("x/data.pkl", pickle.dumps({}, 2)), ("x/data/0", bytes(1 << 20))])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    directory = data[start:-22]
    one = directory[directory.index(b"PK\x01\x02", 4) :]
    many = directory + b"".join(one.replace(b"data/0", b"data/%c" % c) for c in range(49, 58)) * 100
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 902, 902, len(many), start, 0)
    return data[:start] + many + end


PICKLE = ("x/data.pkl", b"\x80\x02}.")
ZIPS = {
    "without a pickle": (zip_bytes([("x/version", b"3")]), "0 members called data.pkl"),
    "two pickles": (zip_bytes([PICKLE, ("y/data.pkl", b"")]), "2 members called data.pkl"),
    "a way up": (zip_bytes([PICKLE, ("x/../../evil", b"")]), "points out of it"),
    "an absolute path": (zip_bytes([PICKLE, ("/etc/evil", b"")]), "points out of it"),
    "a windows path": (zip_bytes([PICKLE, ("..\\evil", b"")]), "points out of it"),
    "a bomb": (
        zip_bytes([PICKLE, ("x/data/0", bytes(1 << 22))], zipfile.ZIP_DEFLATED),
        "compressed or encrypted",
    ),
    "members over each other": (overlapping_zip(), "longer than the file"),
    "cut off": (zip_bytes([PICKLE])[:-30], "a broken zip"),
    "a wrong checksum": (
        zip_bytes([("x/data.pkl", b"\x80\x02}.")]).replace(b"\x80\x02}.", b"\x80\x02]."),
        "a broken zip",
    ),
    "a byte order of its own": (zip_bytes([PICKLE, ("x/byteorder", b"middle")]), "'middle'"),
}


@pytest.mark.parametrize(("data", "reason"), ZIPS.values(), ids=ZIPS.keys())
def test_what_a_zip_must_not_be(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=reason):
        read_weights(path, "torch-pickle")


def test_a_member_with_two_entries(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    with pytest.warns(UserWarning, match="Duplicate name"):
        path.write_bytes(zip_bytes([PICKLE, ("x/version", b"3"), ("x/version", b"4")]))
    with pytest.raises(CheckpointError, match="one name"):
        read_weights(path, "torch-pickle")


@pytest.mark.parametrize("seed", range(5))
def test_random_damage_is_an_error_of_ours_or_harmless(tmp_path: Path, seed: int) -> None:
    source = tmp_path / "good"
    content = {"a": torch.arange(12.0).reshape(3, 4).t(), "b": np.arange(3), "c": {"lr": 0.1}}
    write: list[tuple[str, Callable[[], object]]] = [
        ("torch-pickle", lambda: torch.save(content, source)),
        (
            "torch-pickle",
            lambda: torch.save(content, source, _use_new_zipfile_serialization=False),
        ),
        ("torch-pickle", lambda: source.write_bytes(pickle.dumps({"a": np.arange(9)}, seed))),
        ("safetensors", lambda: write_safetensors({"a": np.arange(9)}, source, {"x": "y"})),
    ]
    chance = random.Random(seed)
    for format, make in write:
        make()
        good = source.read_bytes()
        for _ in range(150):
            data = bytearray(good)
            for _ in range(chance.choice((1, 2, 10))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            if chance.random() < 0.25:
                del data[chance.randrange(len(data)) :]
            path = tmp_path / "damaged"
            path.write_bytes(data)
            # Anything that is not ours, a warning included, fails this test by itself.
            with contextlib.suppress(StemsplitError):
                sniff_format(path)
                read_weights(path, format)
