r"""D3Net's published names: NNabla's, with the stem in front of each.

    vocals/in_offset
    vocals/dense_band/0/ds_layers/dense_block1/initial_block/layers/layer2/bottleneck/conv1/conv/W

A block's "initial_layer" is the layer before layer1, and a nested one's "initial_block" the block
before its layer1: both are number 0 here. Blocks that come up count on from those that go down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product

from stemsplit.weights.keymaps.keymap import Keymap, Row, reshape

_BRANCHES = (("dense_band/(?P<band>\\d+)", r"bands.\g<band>"), ("dense_full", "full"))
_FIRST = (("features_init/(?P<band>\\d+)", r"bands.\g<band>"), ("features_init_full", "full"))
_PLACES = (
    (r"ds_layers/dense_block(?P<place>\d+)", r"down.\g<place>"),
    ("bottleneck_block", "bottom"),
    (r"us_layers/dense_block(?P<place>\d+)", r"up.\g<place>"),
)
_BLOCKS = (("initial_block", "layers.0"), (r"layers/layer(?P<block>\d+)", r"layers.\g<block>"))
_LAYERS = (("initial_layer", "layers.0"), (r"layers/layer(?P<layer>\d+)", r"layers.\g<layer>"))
_NORM = (("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean"), ("var", "running_var"))
_CONV = (("W", "weight"), ("b", "bias"))
_PLAIN = (
    ("in_offset", "input_mean"),
    ("in_scale", "input_deviation"),
    ("decode_scale", "output_scale"),
    ("decode_bias", "output_bias"),
)


def build_keymap(stem: str) -> Keymap:
    """Return the table for the `.h5` files of October 2021: one stem each.

    Args:
        stem: The file's.
    """
    return build_joint_keymap((stem,))


def build_joint_keymap(stems: Sequence[str]) -> Keymap:
    """Return the table for `d3net-mss.h5` of June 2021: all stems in one file.

    Args:
        stems: The model's, in any order.
    """
    return Keymap(tuple(_map_nets(f"(?P<stem>{'|'.join(re.escape(stem) for stem in stems)})")))


def _map_nets(own: str) -> Iterator[Row]:
    net = r"core.nets.\g<stem>"
    for published, here in _PLAIN:
        yield Row(f"{own}/{published}", f"{net}.{here}", reshape(-1))
    for published, here in _FIRST:
        yield from _map_conv(f"{own}/{published}/conv", f"{net}.{here}.first")
    for published, here in _BRANCHES:
        rise = rf"{own}/{published}/us_layers/upsample(?P<place>\d+)/upsample"
        yield from _map_norm(f"{rise}/norm", rf"{net}.{here}.rise.\g<place>.norm")
        yield from _map_conv(f"{rise}/transconv/deconv", rf"{net}.{here}.rise.\g<place>.conv")
    for parts in product(_BRANCHES, _PLACES, _BLOCKS, _LAYERS):
        published = "/".join(part for part, _ in parts)
        yield from _map_unit(f"{own}/{published}", ".".join((net, *(here for _, here in parts))))
    for published, here in _LAYERS:
        yield from _map_unit(f"{own}/final_dense/{published}", f"{net}.final.{here}")
    match = rf"{own}/match_fm_conv/(?P<band>\d+)"
    yield from _map_norm(f"{match}/norm", rf"{net}.match.\g<band>.norm")
    yield from _map_conv(f"{match}/conv/conv", rf"{net}.match.\g<band>.conv")
    yield from _map_norm(f"{own}/out_gate/bn", f"{net}.norm")
    yield from _map_conv(f"{own}/out_gate/conv_gate/conv/conv", f"{net}.gate")
    yield from _map_conv(f"{own}/out_gate/conv_filt/conv/conv", f"{net}.value")


def _map_unit(published: str, here: str) -> Iterator[Row]:
    yield from _map_norm(f"{published}/bottleneck/norm1", f"{here}.norm")
    yield from _map_conv(f"{published}/bottleneck/conv1/conv", f"{here}.conv")


def _map_norm(published: str, here: str) -> Iterator[Row]:
    for last, name in _NORM:
        # One everywhere but on the axis of the channels.
        yield Row(f"{published}/bn/{last}", f"{here}.{name}", reshape(-1))


def _map_conv(published: str, here: str) -> Iterator[Row]:
    for last, name in _CONV:
        yield Row(f"{published}/{last}", f"{here}.{name}")
