"""Open-Unmix as its training leaves it: TARGET*.pth, TARGET.json and separator.json in a folder.

The names of the targets are free. The JSON file of a target holds the arguments of its training;
separator.json, which all targets share, the transform. The bandwidth is nowhere but in the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stemsplit.errors import CheckpointError
from stemsplit.weights.described.brought import Brought, Shelf
from stemsplit.weights.described.candidate import (
    Candidate,
    build_candidate,
    check_alike,
    check_stem,
    order_stems,
)
from stemsplit.weights.described.values import Values, read_json
from stemsplit.weights.entry import ModelEntry

_SHARED = "separator"
_LARGEST_FOLDER = 64
_NO_CLASSES: frozenset[str] = frozenset()


class _Said(NamedTuple):
    """What is said of one target, by the names of the files; the last is what its tensors say."""

    nfft: int
    nb_channels: int
    hidden_size: int
    nhop: int
    sample_rate: int
    max_bin: int


def find_candidate(path: Path, template: ModelEntry, shelf: Shelf) -> Candidate | None:
    """Return the model that the JSON files beside some weights describe, if there are such.

    Args:
        path: A `.pth` file, or a folder with some.
        template: A known model of the architecture and layout.
        shelf: Where files are read.

    Raises:
        CheckpointError: A description is damaged, lacks something, or contradicts another.
    """
    found = _find_targets(path, shelf)
    if not any(target for _, target in found):
        return None
    by_target: dict[str, Brought] = {}
    for brought, target in found:
        if target is None:
            raise CheckpointError(
                f"{brought.path} has no JSON file of its own, as others beside it have",
                help=f"put {brought.path.stem}.json beside it, or give it alone.",
            )
        if target in by_target:
            raise CheckpointError(
                f"{by_target[target].path.name} and {brought.path.name} in {brought.path.parent} "
                f"are both described by {target}.json",
                help="keep one of them in the folder.",
            )
        by_target[check_stem(brought.path, target)] = brought
    folder = path if path.is_dir() else path.parent
    described = {f"{target}.json": _read(folder, target, by_target[target]) for target in by_target}
    check_alike(folder, {name: said._asdict() for name, said in described.items()})
    said = next(iter(described.values()))
    stems = order_stems(by_target, template)
    return build_candidate(
        template,
        path,
        [(by_target[stem], stem) for stem in stems],
        " and ".join(f"{stem}.json" for stem in stems),
        config={
            "n_fft": said.nfft,
            "hop_length": said.nhop,
            "hidden_size": said.hidden_size,
            # Half a bin above the last one that the network looks at.
            "bandwidth_hz": (said.max_bin - 0.5) * said.sample_rate / said.nfft,
        },
        stems=stems,
        sample_rate=said.sample_rate,
        channels=said.nb_channels,
    )


def _find_targets(path: Path, shelf: Shelf) -> list[tuple[Brought, str | None]]:
    """Return the files that are this network's, each with its target where a JSON file names it."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.pth"))[:_LARGEST_FOLDER] if path.is_dir() else [path]
    names = sorted((file.stem for file in folder.glob("*.json")), key=len, reverse=True)
    targets = [name for name in names if name != _SHARED]
    found: list[tuple[Brought, str | None]] = []
    for file in files:
        # The original takes the weights whose name begins with the target's.
        target = next((name for name in targets if file.stem.startswith(name)), None)
        if not targets or file.suffix != ".pth" or not file.is_file():
            continue
        brought = shelf.take(file)
        if brought is not None and brought.has("input_mean", _NO_CLASSES):
            found.append((brought, target))
    return found


def _read(folder: Path, target: str, brought: Brought) -> _Said:
    """Return what is said of one target.

    Raises:
        CheckpointError: Something is missing, no number, or said in two ways.
    """
    args = read_json(folder / f"{target}.json").section("args")
    n_fft = args.integer("nfft", 1 << 16, least=4)
    channels = args.integer("nb_channels", 2)
    arrays = brought.read(_NO_CLASSES).arrays
    shared = folder / f"{_SHARED}.json"
    if shared.is_file():
        values = read_json(shared)
        _expect(values, "nfft", n_fft, target)
        _expect(values, "nb_channels", channels, target)
        sample_rate = _read_rate(values)
    else:
        values = args
        # Older weights bring it along.
        kept = arrays.get("sample_rate")
        sample_rate = 44100
        if kept is not None and kept.size == 1:
            tensors = {"sample_rate": int(kept.reshape(-1)[0])}
            sample_rate = _read_rate(Values(brought.path, "", tensors))
    return _Said(
        nfft=n_fft,
        nb_channels=channels,
        hidden_size=args.integer("hidden_size", 1 << 14, least=2),
        nhop=values.integer("nhop", n_fft - 1),
        sample_rate=sample_rate,
        max_bin=min(max(arrays["input_mean"].size, 1), n_fft // 2 + 1),
    )


def _read_rate(values: Values) -> int:
    # Some of the original's datasets say it as a fraction.
    rate = values.number("sample_rate", 384_000)
    if rate != int(rate) or rate < 1000:
        values.refuse("sample_rate", f"is {rate:g} Hz")
    return int(rate)


def _expect(values: Values, key: str, wanted: int, target: str) -> None:
    values.expect(key, wanted, f"and {wanted} in {target}.json")
