from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from stemsplit.errors import CheckpointError
from stemsplit.weights.convert import read_weights, sniff_format


def write(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def test_groups_become_names(tmp_path: Path) -> None:
    arrays = {
        "fc1/affine/W": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fc1/bn/mean": np.arange(4, dtype=">f8").reshape(1, 4),
        "count": np.array(3, np.int64),
        "none": np.zeros((0, 2), np.float32),
    }

    def fill(file: h5py.File) -> None:
        for index, (name, array) in enumerate(arrays.items()):
            file.create_dataset(name, data=array).attrs["index"] = index
        file.create_dataset("packed", data=np.ones((40, 50)), compression="gzip")

    path = write(tmp_path / "weights.h5", fill)
    read = read_weights(path, "hdf5")
    assert set(read) == {*arrays, "packed"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    assert read["packed"].sum() == 2000
    assert sniff_format(path) == "hdf5"


def point_outside(file: h5py.File) -> None:
    file.create_dataset("w", shape=(4,), dtype="f4", external=[("secret.bin", 0, 16)])


def borrow(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", shape=(4,))
    file.create_virtual_dataset("w", layout)


def nest(file: h5py.File) -> None:
    file.create_group("/".join("g" * 50))


def circle(file: h5py.File) -> None:
    file.create_group("a")["again"] = file["/"]


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda file: file.__setitem__("w", h5py.SoftLink("/other")), "'w' points elsewhere"),
        (lambda file: file.__setitem__("w", h5py.ExternalLink("b.h5", "/w")), "points elsewhere"),
        (point_outside, "'w' takes its numbers from other files"),
        (borrow, "'w' takes its numbers from other files"),
        (lambda file: file.create_dataset("a/w", data="words"), "'a/w' holds no numbers"),
        (lambda file: file.__setitem__("kind", np.dtype("f4")), "'kind' holds no numbers"),
        (nest, "nested more than"),
        (circle, "nested more than"),
        (
            lambda file: file.create_dataset("w", (9_000, 9_000), "f4", compression="gzip"),
            "unpacks to more than",
        ),
    ],
)
def test_what_weights_never_do_is_refused(
    tmp_path: Path, fill: Callable[[h5py.File], object], words: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(b"0123456789abcdef")
    path = write(tmp_path / "weights.h5", fill)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weights(path, "hdf5")
    assert str(path) in caught.value.message


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 700, 2000])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "w.h5", lambda file: file.create_dataset("a/b", data=np.ones(1000)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w\.h5 cannot be read as weights"):
        read_weights(path, "hdf5")


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_weights(tmp_path / "absent.h5", "hdf5")
