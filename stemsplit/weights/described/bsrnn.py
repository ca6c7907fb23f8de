"""BandSplitRNN-PyTorch's hparams.yaml, and where its weights lie.

    TARGET/hparams.yaml, TARGET/TARGET.pt       what is separated with; a folder may hold several
    RUN/tb_logs/hparams.yaml, RUN/weights/*.ckpt    what is left of a training

The first has the keys `model`, `featurizer` and `audio_params`; the second has all the settings of
the training, with the last of these under `test_dataset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from stemsplit.errors import CheckpointError
from stemsplit.models.band_split_rnn import HEADS, PUBLISHED_SPLITS, V7, Splits
from stemsplit.weights.described.brought import Brought, Shelf
from stemsplit.weights.described.candidate import (
    Candidate,
    build_candidate,
    check_alike,
    check_stem,
    order_stems,
)
from stemsplit.weights.described.values import Values, read_yaml
from stemsplit.weights.entry import ModelEntry
from stemsplit.weights.keymaps import build_keymap

_NAME = "hparams.yaml"
_LOGS = "tb_logs"
_SUFFIXES = (".pt", ".ckpt")
_LARGEST_FOLDER = 64
_MOST_BANDS = 1024
_MOST_HZ = 384_000
_MARKS = ("bandsplit.fcs.0.weight", "state_dict.model.bandsplit.fcs.0.weight")
_MODEL_KEYS = (
    "sr",
    "n_fft",
    "bandsplits",
    "t_timesteps",
    "bottleneck_layer",
    "fc_dim",
    "rnn_dim",
    "rnn_type",
    "bidirectional",
    "num_layers",
    "mlp_dim",
    "return_mask",
    "complex_as_channel",
    "is_mono",
)
# Torchaudio's own settings of a transform, which nobody has written down otherwise.
_TRANSFORM = {"pad": 0, "normalized": False, "center": True, "pad_mode": "reflect"}


class _Part(NamedTuple):
    """One stem: its weights, what describes them, and what that says.

    Attributes:
        brought: The weights.
        yaml: The description.
        stem: What it separates.
        splits: Its bands.
        sample_rate: Hz.
        channels: That the network sees.
        config: The other settings of the architecture.
    """

    brought: Brought
    yaml: Path
    stem: str
    splits: Splits
    sample_rate: int
    channels: int
    config: dict[str, object]


def find_candidate(path: Path, template: ModelEntry, shelf: Shelf) -> Candidate | None:
    """Return the model that the hparams.yaml of some weights describes, if there is one.

    Args:
        path: A `.pt` or `.ckpt` file; a folder of a target or of a training; a folder of such.
        template: A known model of the architecture and layout.
        shelf: Where files are read.

    Raises:
        CheckpointError: A description is damaged, says what this network cannot be, or contradicts
            another.
    """
    parts: dict[str, _Part] = {}
    for file, yaml in _find_files(path):
        brought = shelf.take(file)
        inert = build_keymap("bsrnn", "any", ["any"]).inert
        if brought is None or not any(brought.has(mark, inert) for mark in _MARKS):
            continue
        part = _read(brought, yaml)
        if part.stem in parts:
            raise CheckpointError(
                f"{file} and {parts[part.stem].brought.path} are both for {part.stem!r}",
                help="give one of them.",
            )
        parts[part.stem] = part
    if not parts:
        return None
    described = {
        f"{part.yaml.parent.name}/{_NAME}": {
            **part.config,
            "sample_rate": part.sample_rate,
            "channels": part.channels,
        }
        for part in parts.values()
    }
    check_alike(path, described)
    stems = order_stems(parts, template)
    first = parts[stems[0]]
    return build_candidate(
        template,
        path,
        [(parts[stem].brought, stem) for stem in stems],
        _NAME,
        config={**first.config, "splits": tuple(parts[stem].splits for stem in stems)},
        stems=stems,
        sample_rate=first.sample_rate,
        channels=first.channels,
    )


def _find_files(path: Path) -> list[tuple[Path, Path]]:
    """Return the weights and their descriptions, one pair for each stem."""
    if not path.is_dir():
        places = (path.parent, path.parent / _LOGS, path.parent.parent / _LOGS)
        found = [place / _NAME for place in places if (place / _NAME).is_file()]
        return [(path, found[0])] if found and path.suffix in _SUFFIXES else []
    if (path / _NAME).is_file():
        return [(file, path / _NAME) for file in _choose(path, [path])]
    logs = path / _LOGS / _NAME
    if logs.is_file():
        return [(file, logs) for file in _choose(path, [path / "weights", path])]
    folders = sorted(folder.parent for folder in path.glob(f"*/{_NAME}"))[:_LARGEST_FOLDER]
    return [
        (file, folder / _NAME)
        for folder in folders
        if folder.name != _LOGS
        for file in _choose(folder, [folder])
    ]


def _choose(folder: Path, places: Sequence[Path]) -> list[Path]:
    """Return the one file of weights in some places, which all belong to one folder; or none.

    Raises:
        CheckpointError: There are several, and none is called as the original looks for it.
    """
    named = folder / f"{folder.absolute().name}.pt"
    if named.is_file():
        return [named]
    files = [file for place in places for suffix in _SUFFIXES for file in place.glob(f"*{suffix}")]
    if len(files) > 1:
        raise CheckpointError(
            f"{folder} holds {len(files)} files of weights for one {_NAME}, such as "
            f"{min(files).name} and {max(files).name}",
            help="give one of them in place of the folder.",
        )
    return files


def _read(brought: Brought, yaml: Path) -> _Part:
    """Return what a description says of some weights.

    Raises:
        CheckpointError: Something is missing, of a wrong type, or not what this network can be.
    """
    values = read_yaml(yaml)
    model = values.section("model")
    for key in model.chain[-1]:
        if key not in _MODEL_KEYS:
            model.refuse(str(key)[:60], "is not a key that is known")
    audio = values.section("audio_params" if "audio_params" in values else "test_dataset")
    file, folder = brought.path, brought.path.absolute().parent
    is_named = file.stem == folder.name or "target" not in audio
    stem = check_stem(yaml, file.stem if is_named else audio.text("target"))
    sample_rate = model.integer("sr", _MOST_HZ, least=1000)
    audio.expect("sr", sample_rate, f"and model.sr is {sample_rate}")
    model.expect("complex_as_channel", True, "which the original does not finish")
    n_fft = model.integer("n_fft", 1 << 16, least=4)
    hop = _read_hop(values, n_fft)
    return _Part(
        brought,
        yaml,
        stem,
        _read_splits(model, stem, sample_rate),
        sample_rate,
        1 if model.flag("is_mono", False) else 2,
        {
            "n_fft": n_fft,
            "hop_length": hop,
            **_read_network(model),
            **_read_framing(audio, model, sample_rate, n_fft, hop),
        },
    )


def _read_splits(model: Values, stem: str, sample_rate: int) -> Splits:
    """Return the bands; those that are published for a stem where the file has none."""
    if "bandsplits" not in model:
        return PUBLISHED_SPLITS.get(stem, V7)
    splits = model.pairs("bandsplits", sample_rate, _MOST_BANDS)
    ends = [0, *(end for end, _ in splits)]
    if ends != sorted(set(ends)):
        model.refuse("bandsplits", "has ends that do not rise")
    steps = zip(pairwise(ends), splits, strict=True)
    bands = sum(-(-(end - start) // step) for (start, end), (_, step) in steps)
    if bands > _MOST_BANDS:
        model.refuse("bandsplits", f"makes {bands} bands, of which {_MOST_BANDS} are the most")
    return splits


def _read_network(model: Values) -> dict[str, object]:
    """Return what decides the network's inside."""
    bottleneck = model.choice("bottleneck_layer", {"rnn": "rnn", "att": "attention"})
    is_attentive = bottleneck == "attention"
    config: dict[str, object] = {
        "frames": model.integer("t_timesteps", 1 << 16, least=2),
        "width": model.integer("fc_dim", 1 << 14),
        "hidden_size": model.integer("rnn_dim", 1 << 14),
        "mask_hidden_size": model.integer("mlp_dim", 1 << 16),
        "layers": model.integer("num_layers", 256),
        "bottleneck": bottleneck,
        "mapping": model.flag("return_mask", False),
    }
    if is_attentive:
        # With attention, the kind of the recurrent layer is not looked at.
        if model.integer("fc_dim", 1 << 14) % HEADS:
            model.refuse("fc_dim", f"does not divide by {HEADS}, the heads of the attention")
        return config
    config["cell"] = model.choice("rnn_type", {"LSTM": "lstm", "GRU": "gru"})
    config["bidirectional"] = model.flag("bidirectional")
    return config


def _read_hop(values: Values, n_fft: int) -> int:
    """Return the hop of the transform, which has to be an ordinary one."""
    featurizer = values.section("featurizer")
    hops = []
    for way in ("direct_transform", "inverse_transform"):
        transform = featurizer.section(way)
        transform.expect("n_fft", n_fft, f"and model.n_fft is {n_fft}")
        transform.expect("win_length", n_fft, f"and n_fft is {n_fft}: no other window is known")
        for key, wanted in _TRANSFORM.items():
            transform.expect(key, wanted, f"and only {wanted} is known")
        if way == "direct_transform":
            transform.choice("power", {None: None})
        hops.append(transform.integer("hop_length", n_fft - 1))
    if hops[0] != hops[1]:
        featurizer.refuse("inverse_transform.hop_length", f"is {hops[1]}, after one of {hops[0]}")
    return hops[0]


def _read_framing(
    audio: Values, model: Values, sample_rate: int, n_fft: int, hop: int
) -> dict[str, object]:
    """Return how the original cuts a song.

    Its windows are those of the configuration and a little more, so that their frames are whole;
    they must be as many as the network takes.
    """
    chunk = int(audio.number("win_size", 3600) * sample_rate)
    step = int(audio.number("hop_size", 3600) * sample_rate)
    extra = n_fft - chunk % hop
    frames = model.integer("t_timesteps", 1 << 16, least=2)
    if chunk + extra != (frames - 1) * hop:
        audio.refuse(
            "win_size",
            f"comes to windows of {chunk + extra} samples, and model.t_timesteps, {frames}, "
            f"to {(frames - 1) * hop}",
        )
    if not 1 <= step <= chunk:
        audio.refuse("hop_size", f"comes to steps of {step} samples in windows of {chunk}")
    window = audio.choice("window", {None: "even", "hann": "hann"}, None)
    return {"advance": step + extra, "window": window}
