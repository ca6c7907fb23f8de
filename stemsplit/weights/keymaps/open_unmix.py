r"""Open-Unmix's published names, in PyTorch's and in NNabla's layout.

PyTorch's are the same as here, less the path to the stem's network. NNabla keeps an LSTM in three
arrays, with a dimension for the layer, the direction (0 runs forward) and the gate (i, f, g, o, as
in PyTorch), the weights for the input and for the state side by side, and one bias where PyTorch
adds two: the second is zero.

    lstm/lstm/weight_l0  (2, 4, H, input + H)            the first layer
    lstm/lstm/weight     (layers - 1, 2, 4, H, 2H + H)   the others, which read both directions
    lstm/lstm/bias       (layers, 2, 4, H)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stemsplit.weights.keymaps.keymap import Array, Keymap, Row, Transform, permute, reshape

_LAYERS = 3
_WAYS = ("", "_reverse")
_GATES = 4
_STATISTICS = "(input|output)_(mean|scale)"
_NNABLA_NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("mean", "running_mean"),
    ("var", "running_var"),
)


def build_keymap(stem: str) -> Keymap:
    """Return the table for the `.pth` files of umx, umxhq and umxl: one stem each.

    Args:
        stem: The file's.
    """
    net = f"core.nets.{stem}"
    return Keymap(
        rows=(
            Row(r"((?:input|output)_(?:mean|scale))", rf"{net}.\1"),
            Row(r"(fc[123]\.weight)", rf"{net}.\1"),
            Row(r"(bn[123]\.(?:weight|bias|running_mean|running_var))", rf"{net}.\1"),
            Row(r"(lstm\.(?:weight|bias)_[ih]h_l\d+(?:_reverse)?)", rf"{net}.\1"),
        ),
        # The first release kept its STFT's window, and the second its rate, among the weights.
        drop=(r"bn[123]\.num_batches_tracked", r"(?:stft|transform)\..*", r"sample_rate"),
    )


def build_nnabla_keymap(stem: str) -> Keymap:
    """Return the table for the `.h5` files of the NNabla umx and umxhq: one stem each.

    Args:
        stem: The file's.
    """
    return Keymap(tuple(map_nnabla_net(stem, "")))


def map_nnabla_net(stem: str, suffix: str) -> Iterator[Row]:
    """Yield the rows of one stem's network.

    Args:
        stem: Whose network it becomes.
        suffix: What the file adds to the first part of every name, as an expression.
    """
    net = f"core.nets.{stem}"
    yield Row(rf"{_STATISTICS}{suffix}", rf"{net}.\1_\2")
    yield Row(rf"fc([123]){suffix}/affine/W", rf"{net}.fc\1.weight", permute(1, 0))
    for published, here in _NNABLA_NORM:
        # One everywhere but on the axis of the features.
        yield Row(rf"fc([123]){suffix}/bn/{published}", rf"{net}.bn\1.{here}", reshape(-1))
    for layer in range(_LAYERS):
        name = rf"lstm{suffix}/lstm/" + ("weight_l0" if layer == 0 else "weight")
        for way, ending in enumerate(_WAYS):
            place = (way,) if layer == 0 else (layer - 1, way)
            target = f"{net}.lstm.{{}}_l{layer}{ending}"
            yield Row(name, target.format("weight_ih"), _take_weights(place, of_state=False))
            yield Row(name, target.format("weight_hh"), _take_weights(place, of_state=True))
            name_of_bias = rf"lstm{suffix}/lstm/bias"
            yield Row(name_of_bias, target.format("bias_ih"), _take_bias(layer, way))
            yield Row(name_of_bias, target.format("bias_hh"), _take_no_bias(layer, way))


def _take_weights(place: tuple[int, ...], *, of_state: bool) -> Transform:
    """Return the transform to one direction's weights, (4 H, input) or (4 H, H)."""

    def transform(array: Array) -> Array:
        before = (len(_WAYS),) if len(place) == 1 else (_LAYERS - 1, len(_WAYS))
        taken = _take(array, place, before, dimensions=3)
        hidden = taken.shape[1]
        inputs = taken.shape[2] - hidden
        if inputs < 1:
            raise ValueError(f"a state of {hidden} leaves no inputs")
        side = taken[..., inputs:] if of_state else taken[..., :inputs]
        return side.reshape(_GATES * hidden, -1)

    return transform


def _take_bias(layer: int, way: int) -> Transform:
    """Return the transform to one direction's bias, (4 H,)."""

    def transform(array: Array) -> Array:
        return _take(array, (layer, way), (_LAYERS, len(_WAYS)), dimensions=2).reshape(-1)

    return transform


def _take_no_bias(layer: int, way: int) -> Transform:
    """Return the transform to the second bias, which is zero."""

    def transform(array: Array) -> Array:
        return np.zeros_like(_take_bias(layer, way)(array))

    return transform


def _take(
    array: Array, place: tuple[int, ...], before: tuple[int, ...], *, dimensions: int
) -> Array:
    """Return what lies at a layer and direction, of the gates first.

    Raises:
        ValueError: The array has other layers, directions or gates, which would be lost.
    """
    leading = (*before, _GATES)
    if array.ndim != len(before) + dimensions or array.shape[: len(leading)] != leading:
        raise ValueError(f"it should begin with {leading}")
    taken: Array = array[place]
    return taken
