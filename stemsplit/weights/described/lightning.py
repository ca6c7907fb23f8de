"""The hyper-parameters in Lightning checkpoints of the ISMIR 2020 U-Nets and of LaSAFT.

A checkpoint does not say which of the networks it is: the names of its tensors do. What it does not
mention is the original's default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stemsplit.models.blocks.intermediate import ACTIVATIONS
from stemsplit.models.unet import RAMP_FRAMES
from stemsplit.weights.convert import Array, Checkpoint
from stemsplit.weights.described.brought import Brought, Shelf
from stemsplit.weights.described.candidate import Candidate, build_candidate, check_stem
from stemsplit.weights.described.values import Values
from stemsplit.weights.entry import ModelEntry
from stemsplit.weights.keymaps import build_keymap

_SOURCE = "hyper-parameters"
_PREFIX = "hyper_parameters."
_NET = "state_dict.spec2spec."
_STEMS = ("vocals", "drums", "bass", "other")
_ANY_ACTIVATION = {name: name for name in ACTIVATIONS}
_BLOCKS = {
    "tfc": ("tfc_activation", None),
    "tdf": ("tdf_activation", "bias"),
    "tdc": ("tdc_activation", None),
    "tdc-rnn": ("tdc_rnn_activation", "bias_tdf"),
    "tfc-tdf": ("tfc_tdf_activation", "tfc_tdf_bias"),
}
"""What a U-Net's own activation is called, and whether its matrices have a bias, if it has any."""

_TRIM = 5000
_MOST_UNITS = 1 << 14
_MOST_CHANNELS = 4096
# Of a chunk, with the next one: the separator's own limit.
_MOST_SHARED = 0.75


def find_unet(path: Path, template: ModelEntry, shelf: Shelf) -> Candidate | None:
    """Return the U-Net that a checkpoint's hyper-parameters describe, if it is one.

    Args:
        path: The checkpoint, or a folder that has one alone.
        template: A known model of the architecture and layout.
        shelf: Where files are read.

    Raises:
        CheckpointError: They say what no such network can be.
    """
    opened = _open(path, shelf)
    block = None if opened is None else _tell_block(opened[1])
    if opened is None or block is None:
        return None
    brought, checkpoint = opened
    values = _find_values(brought, checkpoint)
    stem = check_stem(path, values.text("target_name") if "target_name" in values else "vocals")
    activation, bias = _BLOCKS[block]
    config = {
        **_read_frame(values, 1024, 256, "magnitude", "masking", "sigmoid"),
        "block": block,
        "activation": values.choice(activation, _ANY_ACTIVATION, "relu"),
        "bias": bias is not None and values.flag(bias, False),
    }
    if block == "tdc-rnn":
        config |= {
            "bottleneck_factor": _read_factor(values, "bn_factor_tdf"),
            # The original's number, which it has no setting for.
            "bottleneck_least": 16,
            "rnn_factor": values.integer("bn_factor_rnn", _MOST_UNITS, default=16),
            "rnn_least": values.integer("min_bn_units_rnn", _MOST_UNITS, default=16),
            "rnn_layers": values.integer("num_layers_rnn", 64, default=1),
            "rnn_bias": values.flag("bias_rnn", False),
        }
    _check_sizes(values, config, halves_time=block not in ("tdf", "tdc"))
    return build_candidate(template, path, [(brought, stem)], _SOURCE, config=config, stems=(stem,))


def find_lasaft(path: Path, template: ModelEntry, shelf: Shelf) -> Candidate | None:
    """Return the conditioned U-Net that a checkpoint's hyper-parameters describe, if it is one.

    Args:
        path: The checkpoint, or a folder that has one alone.
        template: A known model of the architecture and layout.
        shelf: Where files are read.

    Raises:
        CheckpointError: They say what no such network can be.
    """
    opened = _open(path, shelf)
    if opened is None or f"{_NET}embedding.weight" not in opened[1].arrays:
        return None
    brought, checkpoint = opened
    values = _find_values(brought, checkpoint)
    values.expect("control_input_dim", len(_STEMS), f"and only {', '.join(_STEMS)} are known")
    values.choice("control_vector_type", {"embedding": None}, "embedding")
    values.choice("control_type", {"dense": None}, "dense")
    config = {
        **_read_frame(values, 2048, 1024, "complex", "mapping", "identity"),
        **_read_condition(values, checkpoint.arrays),
    }
    _check_sizes(values, config, halves_time=True)
    return build_candidate(template, path, [(brought, None)], _SOURCE, config=config, stems=_STEMS)


def _open(path: Path, shelf: Shelf) -> tuple[Brought, Checkpoint] | None:
    """Return a checkpoint of one of these networks that has hyper-parameters."""
    files = list(path.glob("*.ckpt")) if path.is_dir() else [path]
    brought = shelf.take(files[0]) if len(files) == 1 and files[0].suffix == ".ckpt" else None
    # LaSAFT's checkpoints hold all the classes that the U-Nets' do, and more.
    inert = build_keymap("lasaft", None, _STEMS).inert
    if brought is None or not brought.has(f"{_NET}first_conv.0.weight", inert):
        return None
    checkpoint = brought.read(inert)
    is_described = any(key.startswith(_PREFIX) for key in checkpoint.metadata)
    return (brought, checkpoint) if is_described else None


def _find_values(brought: Brought, checkpoint: Checkpoint) -> Values:
    mapping: dict[str, object] = {}
    for key, value in checkpoint.metadata.items():
        name, _, rest = key.removeprefix(_PREFIX).partition(".")
        if not key.startswith(_PREFIX):
            continue
        if not rest:
            mapping[name] = value
            continue
        # What was a list or an object is spread over several names.
        inner = mapping.setdefault(name, [])
        if isinstance(inner, list):
            inner.append(value)
    return Values(brought.path, _PREFIX.rstrip("."), mapping)


def _tell_block(checkpoint: Checkpoint) -> str | None:
    """Return which block a U-Net's first level has; None for another network."""
    arrays = checkpoint.arrays
    level = f"{_NET}encoders.0."
    if f"{_NET}embedding.weight" in arrays:
        return None
    if f"{level}H.0.0.weight" in arrays:
        return "tfc" if arrays[f"{level}H.0.0.weight"].ndim == 4 else "tdc"
    for name, block in (("tfc.H.0.0", "tfc-tdf"), ("tic.H.0.0", "tdc-rnn")):
        if f"{level}{name}.weight" in arrays:
            return block
    return "tdf" if any(name.startswith(f"{level}tif.") for name in arrays) else None


def _read_frame(
    values: Values, n_fft: int, hop: int, kind: str, estimate: str, last: str
) -> dict[str, object]:
    """Return what all of these networks have; the arguments are one family's defaults."""
    values.expect("unfreeze_stft_from", -1, "and a transform that was trained is not known")
    kinds = {"complex": "complex", "magnitude": "magnitude"}
    estimates = {"mapping": "mapping", "masking": "masking"}
    return {
        "n_fft": values.integer("n_fft", 1 << 16, least=8, default=n_fft),
        "hop_length": values.integer("hop_length", 1 << 16, least=2, default=hop),
        "segment_frames": values.integer("num_frame", 1 << 14, least=2, default=128),
        "spectrogram": values.choice("spec_type", kinds, kind),
        "estimate": values.choice("spec_est_mode", estimates, estimate),
        "blocks": values.integer("n_blocks", 31, default=7),
        "width": values.integer("internal_channels", _MOST_CHANNELS, default=24),
        "layers": values.integer("n_internal_layers", 64, default=5),
        "kernel_frames": values.integer("kernel_size_t", 63, default=3),
        "kernel_bins": values.integer("kernel_size_f", 63, default=3),
        "first_activation": values.choice("first_conv_activation", _ANY_ACTIVATION, "relu"),
        "last_activation": values.choice("last_activation", _ANY_ACTIVATION, last),
        "time_levels": _read_levels(values),
        "bottleneck_factor": _read_factor(values, "bn_factor"),
        "bottleneck_least": values.integer("min_bn_units", _MOST_UNITS, default=16),
        "trim_samples": _TRIM,
    }


def _read_levels(values: Values) -> str | tuple[int, ...]:
    """Return at which levels frames are halved: none is all, else a list or its text."""
    value = values.get("t_down_layers", None)
    if value is None:
        return "all"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            values.refuse("t_down_layers", "is no list of levels")
    if not isinstance(value, list) or any(
        type(level) is not int or not 0 <= level < 16 for level in value
    ):
        values.refuse("t_down_layers", "is no list of levels from 0")
    return tuple(value)


def _read_factor(values: Values, key: str) -> int:
    """Return a bottleneck's factor; 0 where there is to be none."""
    if values.get(key, 16) in (None, "None", "none"):
        return 0
    return values.integer(key, _MOST_UNITS, default=16)


def _read_condition(values: Values, arrays: Mapping[str, Array]) -> dict[str, object]:
    """Return how a stem changes the network."""
    level = f"{_NET}encoders.0."
    marks = {"tdf.tdf.": "tdf", "tdfs.tdf.": "lasaft", "LaSIFT.": "lightsaft"}
    transforms = [
        transform
        for mark, transform in marks.items()
        if any(name.startswith(f"{level}{mark}") for name in arrays)
    ]
    transform = transforms[0] if transforms else "none"
    width = values.integer("internal_channels", _MOST_CHANNELS, default=24)
    sizes = [
        array.size
        for part in ("gamma", "beta")
        if (array := arrays.get(f"{_NET}condition_generator.linear_{part}.0.bias")) is not None
    ]
    # Where FiLM has a number for each channel, GPoCM has as many as there are channels.
    modulation = "gpocm" if sizes and sizes[0] == sizes[-1] * width else "film"
    if modulation == "film":
        values.choice("film_type", {"complex": None}, "complex")
    else:
        values.choice("pocm_type", {"matmul": None}, "matmul")
    places = {"encoder": "encoder", "decoder": "decoder", "full": "full"}
    activation = "tfc_activation" if transform == "none" else "tfc_tdf_activation"
    return {
        "modulation": modulation,
        "transform": transform,
        "conditioned": values.choice("condition_to", places, "decoder"),
        "embedding": values.integer("embedding_dim", _MOST_CHANNELS, default=32),
        # The first only makes the embedding ready.
        "control_layers": values.integer("control_n_layer", 8, least=2, default=4) - 1,
        "gamma_activation": values.choice("gamma_activation", _ANY_ACTIVATION, "identity"),
        "beta_activation": values.choice("beta_activation", _ANY_ACTIVATION, "identity"),
        "norm_modulation": values.choice(
            "pocm_norm", {"batch_norm": True, None: False}, "batch_norm"
        ),
        "latents": values.integer("num_tdfs", 1024, default=6),
        "key_width": values.integer("dk", _MOST_UNITS, default=32),
        "activation": values.choice(activation, _ANY_ACTIVATION, "relu"),
        "bias": values.flag("tfc_tdf_bias", False),
    }


def _check_sizes(values: Values, config: Mapping[str, Any], *, halves_time: bool) -> None:
    """Refuse sizes that do not halve, and pieces of which too little would be heard."""
    bins, blocks = config["n_fft"] // 2, config["blocks"]
    levels = blocks // 2
    if blocks % 2 == 0 or config["n_fft"] % 2 or bins % (1 << levels):
        values.refuse("n_blocks", f"is {blocks}, and has to be odd and to halve {bins} bins")
    halved = range(levels) if config["time_levels"] == "all" else config["time_levels"]
    if any(level >= levels for level in halved):
        values.refuse("t_down_layers", f"has a level that is not among the {levels}")
    frames, hop = config["segment_frames"], config["hop_length"]
    if halves_time and frames % (1 << len(set(halved))):
        values.refuse("num_frame", f"is {frames}, which does not halve at {len(halved)} levels")
    # As the networks plan their chunks: what is not heard at either end, and the cross-fade.
    trim, border = math.ceil(_TRIM / hop), math.ceil(config["n_fft"] / hop)
    shared = (
        2 * max(trim, border) + min(RAMP_FRAMES, frames // 8) if halves_time else 2 * border + 2
    )
    if hop >= config["n_fft"] or frames - 1 <= max(2 * trim, shared / _MOST_SHARED):
        values.refuse("num_frame", f"is {frames}, at {hop} samples each: too short to be joined")
