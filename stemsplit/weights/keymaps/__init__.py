"""Keymaps: per architecture, how published names become its own.

`KEYMAPS` has one line per published layout: its name in the registry, and the function that builds
its table from the file's stem and the model's stems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from stemsplit.errors import RegistryError, UnknownNameError
from stemsplit.weights.keymaps import bsrnn, d3net, lasaft, open_unmix, spleeter, unet, x_umx
from stemsplit.weights.keymaps.keymap import (
    Keymap,
    Renamed,
    Row,
    apply_keymap,
    fill_targets,
    permute,
    rename_arrays,
    reshape,
    squeeze,
)

__all__ = [
    "KEYMAPS",
    "Keymap",
    "Renamed",
    "Row",
    "apply_keymap",
    "build_keymap",
    "fill_targets",
    "permute",
    "rename_arrays",
    "reshape",
    "squeeze",
]

PerStem = Callable[[str], Keymap]
PerModel = Callable[[Sequence[str]], Keymap]

_PER_STEM: Mapping[str, PerStem] = MappingProxyType(
    {
        "spleeter-torch": spleeter.build_torch_keymap,
        "open-unmix": open_unmix.build_keymap,
        "open-unmix-nnabla": open_unmix.build_nnabla_keymap,
        "d3net": d3net.build_keymap,
        "bsrnn": bsrnn.build_keymap,
        "bsrnn-averaged": bsrnn.build_averaged_keymap,
        "intermediate-block-unet": unet.build_keymap,
        "intermediate-block-unet-paper": unet.build_older_keymap,
    }
)
_PER_MODEL: Mapping[str, PerModel] = MappingProxyType(
    {
        "spleeter-tf": spleeter.build_tensorflow_keymap,
        "d3net-joint": d3net.build_joint_keymap,
        "x-umx": x_umx.build_keymap,
        "lasaft": lasaft.build_keymap,
    }
)

KEYMAPS: tuple[str, ...] = (*_PER_STEM, *_PER_MODEL)
"""What a registry may call a file's keymap."""

_OWN_NAMES = Keymap(rows=(Row(r"(.+)", r"\1"),))


def build_keymap(name: str | None, stem: str | None, stems: Sequence[str]) -> Keymap:
    """Return the table for one file of a model.

    Args:
        name: One of `KEYMAPS`; None where the file has the architecture's own names.
        stem: The stem that the file is for; None where it is for all of them.
        stems: The model's, in the order of the published network.

    Raises:
        UnknownNameError: There is no such keymap, or the stem is not the model's.
        RegistryError: The file needs a stem and has none, or the other way round.
    """
    if stem is not None and stem not in stems:
        raise UnknownNameError("stem", stem, stems)
    if name is None:
        return _OWN_NAMES
    if name in _PER_STEM:
        if stem is None:
            raise RegistryError(
                f"the keymap {name!r} is for files of one stem each, and a file names none",
                help=f'add stem = "..." to the file: one of {", ".join(stems)}.',
            )
        return _PER_STEM[name](stem)
    if name in _PER_MODEL:
        if stem is not None:
            raise RegistryError(
                f"the keymap {name!r} is for a file of all stems, and it says {stem!r}",
                help="take `stem` away from the file.",
            )
        return _PER_MODEL[name](stems)
    raise UnknownNameError("keymap", name, KEYMAPS)
