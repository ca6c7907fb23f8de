r"""The published names of the U-Nets with intermediate blocks, in two layouts.

Both name a network's parts alike, under `spec2spec.` in today's Lightning checkpoints and bare (or
under `module.`) in the older ones, which are state dicts alone:

    first_conv.{0 conv, 1 norm}     last_conv.0 (older: final_conv.0)
    encoders.i, mid_block, decoders.i   (\.tfc|\.tic)?.H.k.{0 conv, 1 norm}     dense layers
                                        (\.tif)?(\.tif).{0, 3 linear; 1, 4 norm}    TDF
                                        .0.tif..., .1                           TDF, then narrowed
                                        .bn, .rnn, .tif_f1_to_f2.tif            TDC-RNN
    downsamplings.i, upsamplings.i      .{0, conv}, .{1, bn}   (older: downsampling, upsampling)

Convolutions over frequency alone have one axis less than here. The older networks see (F, N) at the
border where today's see (N, F), and the channels re L, im L, re R, im R; today's, and those here,
are re L, re R, im L, im R.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stemsplit.weights.keymaps.keymap import Array, Keymap, Row, Transform

CONV = r"(weight|bias)"
NORM = r"(weight|bias|running_mean|running_var)"
BLOCKS = (
    (r"encoders\.(\d+)", r"encoders.\1"),
    (r"mid_block()", r"middle"),
    (r"decoders\.(\d+)", r"decoders.\1"),
)
_STATISTICS = r".*\.num_batches_tracked"


def build_keymap(stem: str) -> Keymap:
    """Return the table for Lightning checkpoints: one stem each.

    Args:
        stem: The file's.
    """
    prefix = r"state_dict\.spec2spec\."
    net = f"core.nets.{stem}"
    return Keymap(
        rows=(
            *map_unet(prefix, net),
            *map_blocks(prefix, net),
            Row(rf"{prefix}first_conv\.0\.{CONV}", rf"{net}.first.\1"),
            Row(rf"{prefix}last_conv\.0\.{CONV}", rf"{net}.last.\1"),
        ),
        drop=LIGHTNING_DROPS,
        inert=LIGHTNING_INERT,
    )


LIGHTNING_DROPS = (
    _STATISTICS,
    # A Hann window, which was never trained: `unfreeze_stft_from` is -1 in all that is published.
    r"state_dict\.stft\.stft\.window",
    r"optimizer_states\..*",
    r"lr_schedulers\..*",
    r"checkpoint_callback_best_model_score",
    r"early_stop_callback_state_dict\..*",
)
LIGHTNING_INERT = frozenset({"pytorch_lightning.utilities.parsing.AttributeDict"})
"""What wraps the hyper-parameters in a pickle; its items are kept, its class is never imported."""


def build_older_keymap(stem: str) -> Keymap:
    """Return the table for the state dicts that came with the paper, read from complex planes.

    Args:
        stem: The file's.
    """
    prefix = r"(?:module\.)?"
    net = f"core.nets.{stem}"
    return Keymap(
        rows=(
            *map_unet(prefix, net),
            *map_blocks(prefix, net),
            Row(rf"{prefix}first_conv\.0\.weight", rf"{net}.first.weight", _turn_border(1)),
            Row(rf"{prefix}first_conv\.0\.bias", rf"{net}.first.bias"),
            Row(rf"{prefix}final_conv\.0\.weight", rf"{net}.last.weight", _turn_border(0)),
            Row(rf"{prefix}final_conv\.0\.bias", rf"{net}.last.bias", _order_planes(0)),
        ),
        drop=(_STATISTICS,),
    )


def map_unet(prefix: str, net: str) -> Iterator[Row]:
    """Yield the rows of the U-Net around the blocks, but for its two border convolutions.

    Args:
        prefix: What the file puts before every name, as an expression without groups.
        net: Where the network stands here.
    """
    yield Row(rf"{prefix}first_conv\.1\.{NORM}", rf"{net}.first_norm.\1")
    for published, here in (("down", "down"), ("up", "up")):
        name = rf"{prefix}{published}samplings?\.(\d+)"
        yield Row(rf"{name}\.(?:0|conv)\.{CONV}", rf"{net}.{here}.\1.conv.\2", _add_frames)
        yield Row(rf"{name}\.(?:1|bn)\.{NORM}", rf"{net}.{here}.\1.norm.\2")


def map_blocks(prefix: str, net: str) -> Iterator[Row]:
    """Yield the rows of the study's blocks.

    Args:
        prefix: What the file puts before every name, as an expression without groups.
        net: Where the network stands here.
    """
    for published, here in BLOCKS:
        name, target = prefix + published, f"{net}.{here}"
        yield from map_dense(rf"{name}\.H", f"{target}.layers")
        yield from map_dense(rf"{name}\.(?:tfc|tic)\.H", f"{target}.dense.layers")
        yield from map_tdf(rf"{name}\.(?:0\.|tif\.|tif_f1_to_f2\.)?tif", f"{target}.tdf.layers")
        yield Row(rf"{name}\.1\.{CONV}", rf"{target}.narrow.\2")
        yield Row(rf"{name}\.bn\.{NORM}", rf"{target}.norm.\2")
        yield Row(rf"{name}\.rnn\.(.*)", rf"{target}.rnn.\2")


def map_dense(name: str, target: str) -> Iterator[Row]:
    """Yield the rows of a block's dense convolutions; `name` has one group.

    Args:
        name: The list of layers, as an expression.
        target: The same here.
    """
    yield Row(rf"{name}\.(\d+)\.0\.{CONV}", rf"{target}.\2.conv.\3", _add_frames)
    yield Row(rf"{name}\.(\d+)\.1\.{NORM}", rf"{target}.\2.norm.\3")


def map_tdf(name: str, target: str) -> Iterator[Row]:
    """Yield the rows of a TDF; `name` has one group.

    Args:
        name: The sequence of linear, norm, activation, as an expression.
        target: The same here.
    """
    for layer in (0, 1):
        yield Row(rf"{name}\.{3 * layer}\.{CONV}", rf"{target}.{layer}.linear.\2")
        yield Row(rf"{name}\.{3 * layer + 1}\.{NORM}", rf"{target}.{layer}.norm.\2")


def _add_frames(array: Array) -> Array:
    """Make a kernel over frequency one of a single frame: (C, C, F) -> (C, C, 1, F)."""
    return np.expand_dims(array, 2) if array.ndim == 3 else array


def _order_planes(axis: int) -> Transform:
    """Return the transform from (channel, part) to (part, channel) along an axis."""

    def transform(array: Array) -> Array:
        planes = array.shape[axis]
        if planes % 2:
            raise ValueError(f"{planes} planes are no real and imaginary parts")
        ordered: Array = np.take(array, np.arange(planes).reshape(-1, 2).T.reshape(-1), axis)
        return ordered

    return transform


def _turn_border(axis: int) -> Transform:
    """Return the transform of a border convolution: its two axes, and the planes along one."""
    order = _order_planes(axis)

    def transform(array: Array) -> Array:
        return order(np.swapaxes(array, 2, 3))

    return transform
