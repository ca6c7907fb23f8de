r"""The names in LaSAFT's Lightning checkpoints, the same in both of their layouts.

The U-Net is named as the study's is (`stemsplit.weights.keymaps.unet`); beside it stand

    embedding                                           a row for each stem
    condition_generator.dense_control_block.linear.i    0: linear, relu; then four a layer: linear,
                                                        relu, dropout, norm
    condition_generator.linear_{gamma,beta}.{0, 2}      linear; norm, without scale and shift
    (encoders.i|mid_block|decoders.i).tdf.tdf.{0,1,3,4}         a TDF
                                     .tdfs.tdf.{0,1,3,4}        LaSAFT
                                     .{LaSAFT_bn_layer,LaSIFT}.{0,1}     LightSAFT
                                     .{keys,linear_query}       what both attend by
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stemsplit.weights.keymaps.keymap import Keymap, Row
from stemsplit.weights.keymaps.unet import (
    BLOCKS,
    CONV,
    LIGHTNING_DROPS,
    LIGHTNING_INERT,
    NORM,
    map_dense,
    map_tdf,
    map_unet,
)

_LOSSES = "lasaft.source_separation.conditioned.loss_functions"
_MOST_LAYERS = 8


def build_keymap(stems: Sequence[str]) -> Keymap:
    """Return the table for a checkpoint, which holds one network for all stems.

    Args:
        stems: In the order of the conditions; a checkpoint does not name them.
    """
    prefix = r"state_dict\.spec2spec\."
    return Keymap(
        rows=(
            *map_unet(prefix, "core.net"),
            Row(rf"{prefix}first_conv\.0\.{CONV}", r"core.net.first.\1"),
            Row(rf"{prefix}last_conv\.0\.{CONV}", r"core.net.last.\1"),
            *_map_blocks(prefix),
            *_map_conditions(prefix),
        ),
        drop=(
            *LIGHTNING_DROPS,
            r"callbacks\..*",
            r"native_amp_scaling_state\..*",
        ),
        # Classes that stand beside the tensors: keys of the callbacks' states, and loss objects
        # among the hyper-parameters. None of them is imported.
        inert=LIGHTNING_INERT
        | {
            "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
            f"{_LOSSES}.Conditional_RAW_Loss",
            f"{_LOSSES}.Conditional_Spectrogram_Loss",
            "torch.nn.functional.l1_loss",
            "torch.nn.functional.mse_loss",
        },
    )


def _map_blocks(prefix: str) -> Iterator[Row]:
    for published, here in BLOCKS:
        name, block = prefix + published, f"core.net.{here}"
        yield from map_dense(rf"{name}\.(?:tfc\.)?H", f"{block}.dense.layers")
        yield from map_tdf(rf"{name}\.tdf\.tdf", f"{block}.transform.layers")
        yield from map_tdf(rf"{name}\.tdfs\.tdf", f"{block}.transform.tdf.layers")
        for layer, part in (("LaSAFT_bn_layer", "squeeze"), ("LaSIFT", "expand")):
            target = f"{block}.transform.{part}"
            yield Row(rf"{name}\.{layer}\.0\.{CONV}", rf"{target}.linear.\2")
            yield Row(rf"{name}\.{layer}\.1\.{NORM}", rf"{target}.norm.\2")
        yield Row(rf"{name}\.keys", f"{block}.transform.attention.keys")
        yield Row(rf"{name}\.linear_query\.{CONV}", rf"{block}.transform.attention.query.\2")


def _map_conditions(prefix: str) -> Iterator[Row]:
    yield Row(rf"{prefix}embedding\.weight", "core.embedding.weight")
    name = rf"{prefix}condition_generator"
    dense = rf"{name}\.dense_control_block\.linear"
    yield Row(rf"{dense}\.0\.{CONV}", r"core.control.linear.0.\1")
    for layer in range(1, _MOST_LAYERS):
        yield Row(rf"{dense}\.{4 * layer - 2}\.{CONV}", rf"core.control.linear.{layer}.\1")
        yield Row(rf"{dense}\.{4 * layer + 1}\.{NORM}", rf"core.control.norm.{layer - 1}.\1")
    for part in ("gamma", "beta"):
        yield Row(rf"{name}\.linear_{part}\.0\.{CONV}", rf"core.{part}.linear.\1")
        yield Row(rf"{name}\.linear_{part}\.2\.{NORM}", rf"core.{part}.norm.\1")
