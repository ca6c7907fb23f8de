"""ONNX files as weights: what other writers make is read, and what is damaged is refused."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from stemsplit.errors import CheckpointError
from stemsplit.weights.convert import read_weights, sniff_format

onnx = pytest.importorskip("onnx")
"""An independent writer; the reader needs no package."""

GOLDEN = Path(__file__).parents[1] / "goldens" / "d3net.h5.gz"


def write_onnx(arrays: dict[str, np.ndarray], path: Path, *, raw: bool = True) -> None:
    tensors = [
        onnx.numpy_helper.from_array(array, name)
        if raw
        else onnx.helper.make_tensor(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel()
        )
        for name, array in arrays.items()
    ]
    graph = onnx.helper.make_graph([], "graph", [], [], initializer=tensors)
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())


ARRAYS = {
    "a/conv/W": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a/double": np.linspace(0, 1, 5),
    "a/half": np.ones((2, 2), np.float16),
    "a/one": np.float32(3).reshape(()),
}


@pytest.mark.parametrize("raw", [True, False])
def test_what_the_package_writes_is_read(tmp_path: Path, raw: bool) -> None:
    path = tmp_path / "x.onnx"
    given = ARRAYS if raw else {key: ARRAYS[key] for key in ("a/conv/W", "a/double", "a/one")}
    write_onnx({**given, "shape": np.array([1, 2])}, path, raw=raw)
    assert sniff_format(path) == "onnx"
    found = read_weights(path, "onnx")
    assert found.keys() == given.keys(), "integers are the graph's own"
    for name, array in given.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_d3nets_names_open_as_the_same_network(tmp_path: Path) -> None:
    """As NNabla's exporter names them: the parameters' own names, norms as vectors."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(io.BytesIO(gzip.decompress(GOLDEN.read_bytes())), "r") as file:

        def take(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                array = np.asarray(item, np.float32)
                arrays[name] = array.reshape(-1) if "/bn/" in name else array

        file.visititems(take)
    path = tmp_path / "vocals.onnx"
    write_onnx(arrays, path)
    (tmp_path / "same.h5").write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    expected = read_weights(tmp_path / "same.h5", "hdf5")
    found = read_weights(path, "onnx")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].ravel(), np.asarray(array).ravel())


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    write_onnx({}, path)
    with pytest.raises(CheckpointError, match="no ONNX file with weights"):
        read_weights(path, "onnx")


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(ARRAYS["a/conv/W"], "a")
    onnx.external_data_helper.set_external_data(tensor, "../../etc/passwd")
    graph = onnx.helper.make_graph([], "graph", [], [], initializer=[tensor])
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(CheckpointError, match="in another file"):
        read_weights(path, "onnx")


def test_no_damage_gets_through_as_anything_but_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    write_onnx(ARRAYS, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_weights(path, "onnx")
    dice = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        broken[dice.integers(len(whole))] ^= 1 << dice.integers(8)
        path.write_bytes(broken)
        try:
            found = read_weights(path, "onnx")
        except CheckpointError:
            continue
        assert all(array.dtype.kind == "f" for array in found.values())
