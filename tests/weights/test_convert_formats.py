"""safetensors and .npz, guessing a format, and `convert`, which puts everything together."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from stemsplit.errors import (
    CheckpointError,
    DiskFullError,
    OutputError,
    RegistryError,
    UnknownNameError,
    UnsafeWeightsError,
)
from stemsplit.weights.convert import (
    FORMATS,
    convert,
    read_checkpoint,
    read_safetensors,
    read_weights,
    sniff_format,
    write_safetensors,
)

# safetensors


def test_what_is_written_is_read_by_us_and_by_the_library(tmp_path: Path) -> None:
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "big": np.arange(4, dtype=">f4"),
        "half": np.float16([1.5]),
        "integer": np.array(3, np.int64),
        "empty": np.zeros((0, 2), np.float32),
        "strided": np.arange(10)[::3],
        "bool": np.array([True, False]),
    }
    path = tmp_path / "weights.safetensors"
    write_safetensors(arrays, path, {"model": "tiny"})
    ours = read_safetensors(path)
    theirs = safetensors.torch.load_file(path)
    assert ours.metadata == {"model": "tiny"}
    for name, array in arrays.items():
        assert ours.arrays[name].shape == array.shape
        np.testing.assert_array_equal(ours.arrays[name], array)
        np.testing.assert_array_equal(theirs[name].numpy(), array)
    assert list(tmp_path.iterdir()) == [path]


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"x": torch.tensor([[1.5, -3.1415]]).bfloat16()}, path)
    read = read_weights(path, "safetensors")["x"]
    np.testing.assert_array_equal(read, torch.tensor([[1.5, -3.1415]]).bfloat16().float().numpy())


def header(tensors: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


BROKEN_SAFETENSORS = {
    "empty": b"",
    "cut off": header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4)),
    "a header larger than the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "no JSON": (2).to_bytes(8, "little") + b"{x",
    "a shape larger than its bytes": header(
        {"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "tensors over each other": header(
        {
            "x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "y": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        },
        bytes(4),
    ),
    "a type that NumPy lacks": header(
        {"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"0"
    ),
    "an unknown type": header({"x": {"dtype": "F1", "shape": [], "data_offsets": [0, 1]}}, b"0"),
}


@pytest.mark.parametrize("data", BROKEN_SAFETENSORS.values(), ids=BROKEN_SAFETENSORS.keys())
def test_broken_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors cannot be read as weights"):
        read_weights(path, "safetensors")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors({"x": np.zeros(1)}, path)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError, match=r"no space is left to write .*weights\.safetensors"):
        write_safetensors({"x": np.ones(1000)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_safetensors({"x": np.zeros(1)}, tmp_path / "no folder" / "x.safetensors")
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_safetensors({"x": np.zeros(1)}, folder)
    assert list(tmp_path.iterdir()) == [folder]


# .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    arrays = {"a.b": np.arange(6.0).reshape(2, 3), "f": np.ones((2, 2), order="F"), "n": np.int8(3)}
    path = tmp_path / "weights.npz"
    assert callable(save)
    save(path, **arrays)
    read = read_weights(path, "numpy")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 1",)


BROKEN_NPZ = {
    "objects": (
        {"x.npy": npy(np.array([Trap()], object), allow_pickle=True)},
        "no array of numbers",
    ),
    "text": ({"x.npy": npy(np.array(["a"]))}, "no array of numbers"),
    "records": ({"x.npy": npy(np.zeros(1, [("a", "f4")]))}, "no array of numbers"),
    "too few bytes": ({"x.npy": npy(np.zeros(4))[:-1]}, "in 159 bytes"),
    "a million million": (
        {"x.npy": npy(np.zeros(4)).replace(b"(4,), }" + b" " * 12, b"(1000000000000,), }")},
        "1000000000000",
    ),
    "a later version": ({"x.npy": b"\x93NUMPY\x03" + npy(np.zeros(4))[7:]}, "version 1 or 2"),
    "brackets that never close": (
        {"x.npy": npy(np.zeros(4)).replace(b"(4,), }", b"((((4, ")},
        "no array of numbers",
    ),
    "a number that never ends": (
        {"x.npy": b"\x93NUMPY\2\0" + (1 << 30).to_bytes(4, "little") + b"1" * 9000},
        "no array of numbers",
    ),
    "too many axes": (
        {
            "x.npy": npy(np.zeros((1,) * 20))
            .replace(b"(" + b"1, " * 19, b"(" + b"1, " * 35)
            .replace(b" " * 48, b"")
        },
        "an array of shape",
    ),
    "no header": ({"x.npy": b"hello"}, "it holds"),
    "another member": ({"x.txt": b"hello"}, "no array of its own"),
    "a bomb": ({"x.npy": npy(np.zeros(1 << 24))}, "unpacks to 134217856 bytes"),
}


@pytest.mark.parametrize(("members", "reason"), BROKEN_NPZ.values(), ids=BROKEN_NPZ.keys())
def test_broken_npz(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    path = tmp_path / "broken.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_weights(path, "numpy")
    assert str(path) in caught.value.message


def test_an_npz_that_is_no_zip(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="broken zip"):
        read_weights(path, "numpy")


# Formats by name and by content


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean torch-pickle"):
        read_weights(tmp_path, "torch-pickel")


@pytest.mark.parametrize("format", [form for form in FORMATS if form != "tensorflow"])
def test_a_file_that_is_not_there(tmp_path: Path, format: str) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt cannot be read: No such file"):
        read_checkpoint(tmp_path / "gone.pt", format)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path, format)


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    content = {"x": np.zeros(2)}
    torch.save(content, tmp_path / "zip")
    torch.save(content, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        (tmp_path / f"plain{protocol}").write_bytes(pickle.dumps(content, protocol))
    write_safetensors(content, tmp_path / "safe")
    np.savez(tmp_path / "arrays.npz", **content)
    (tmp_path / "text").write_bytes(b"hello")
    (tmp_path / "empty").touch()
    (tmp_path / "one").write_bytes(b"\x80")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("song.wav", b"")
    (tmp_path / "folder").mkdir()
    found = {path.name: sniff_format(path) for path in tmp_path.iterdir()}
    assert found == {
        "zip": "torch-pickle",
        "legacy": "torch-pickle",
        "plain2": "torch-pickle",
        "plain3": "torch-pickle",
        "plain4": "torch-pickle",
        "plain5": "torch-pickle",
        "safe": "safetensors",
        "arrays.npz": "numpy",
        "text": None,
        "empty": None,
        "one": None,
        "other.zip": None,
        "folder": None,
    }
    with pytest.raises(CheckpointError, match="cannot be read"):
        sniff_format(tmp_path / "gone")


# convert

SHAPES = {"core.a": (2, 3), "core.b": (2,)}


def test_files_with_the_networks_own_names(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.pt"
    write_safetensors({"core.a": np.ones((2, 3), ">f4")}, first)
    torch.save({"core.b": torch.arange(4)[::2]}, second)
    files = [(first, "safetensors", None, None), (second, "torch-pickle", None, None)]
    arrays = convert(files, ("vocals",), SHAPES)
    assert list(arrays) == list(SHAPES)
    for array in arrays.values():
        assert array.flags.c_contiguous
        assert array.dtype.isnative


def test_two_files_with_one_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors({"core.a": np.ones((2, 3))}, path)
    with pytest.raises(CheckpointError, match=r"'core\.a' is in another of the model's files"):
        convert([(path, "safetensors", None, None)] * 2, ("vocals",), SHAPES)


def test_what_does_not_fit_is_listed_with_the_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_safetensors({"core.a": np.ones((3, 2)), "other": np.ones(1)}, path)
    with pytest.raises(CheckpointError) as caught:
        convert([(path, "safetensors", None, None)], ("vocals",), SHAPES)
    assert caught.value.message == (
        "the weights in mine.safetensors do not fit the network: missing: core.b; "
        "not in the network: other; of another shape: core.a (3, 2) in place of (2, 3)"
    )


@pytest.mark.parametrize(
    ("keymap", "stem", "kind", "message"),
    [
        ("spleeter-torhc", None, UnknownNameError, "did you mean spleeter-torch"),
        ("spleeter-torch", None, RegistryError, "names none"),
        ("spleeter-torch", "vocal", UnknownNameError, "did you mean vocals"),
        ("spleeter-tf", "vocals", RegistryError, "for a file of all stems"),
        (None, "drums", UnknownNameError, "no stem 'drums'"),
    ],
)
def test_a_registry_row_that_makes_no_sense(
    tmp_path: Path, keymap: str | None, stem: str | None, kind: type[Exception], message: str
) -> None:
    files = [(tmp_path / "x", "safetensors", keymap, stem)]
    with pytest.raises(kind, match=message):
        convert(files, ("vocals", "accompaniment"), SHAPES)


def test_a_poisoned_file_stops_the_conversion(tmp_path: Path) -> None:
    path = tmp_path / "poisoned.pt"
    torch.save({"core.a": torch.ones(2, 3), "trap": Trap()}, path)
    with pytest.raises(UnsafeWeightsError, match="system"):
        convert([(path, "torch-pickle", None, None)], ("vocals",), SHAPES)


def test_conversion_never_imports_torch() -> None:
    code = "import sys, stemsplit.weights.convert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
