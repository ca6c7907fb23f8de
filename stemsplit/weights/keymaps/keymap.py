r"""Two-column tables of names: what a tensor is called where it was published, and here.

    Keymap(
        rows=(Row(r"enc\.(\d)\.kernel", r"core.down.\1.weight", permute(3, 2, 0, 1)), ...),
        drop=(r"global_step", r".*/Adam(_1)?"),
    )

Nothing is passed over in silence: a name that no row takes, a target that no row gives and a shape
that does not fit are errors that list what they are about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import CheckpointError

Array = NDArray[Any]
Transform = Callable[[Array], Array]

_LISTED = 10
_HELP = (
    "these are not the weights of this architecture and configuration, or the keymap lacks a row; "
    "`stemsplit models info NAME` shows what the model expects."
)


@dataclass(frozen=True)
class Row:
    r"""One line of a keymap.

    Attributes:
        source: A regular expression that the whole published name matches.
        target: The name here, with the expression's groups as \1, \2 ...
        transform: What is done to the numbers' layout; nothing by default.
    """

    source: str
    target: str
    transform: Transform | None = None


@dataclass(frozen=True)
class Keymap:
    """How published names become an architecture's.

    Attributes:
        rows: Every row that matches a name gives a target: one tensor may be used twice.
        drop: Regular expressions of names that are known to be of no use here.
        inert: Dotted names of classes that stand in the published pickles beside the tensors.
        label: Gives a file's tensors, by their names there, the names that `rows` are about; for
            files that number some of them.
    """

    rows: tuple[Row, ...]
    drop: tuple[str, ...] = ()
    inert: frozenset[str] = frozenset()
    label: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None


@dataclass(frozen=True)
class Renamed:
    """What a keymap made of a file.

    Attributes:
        arrays: By target name; views, not copies.
        unused: Published names that nothing took.
    """

    arrays: Mapping[str, Array]
    unused: tuple[str, ...]


def permute(*axes: int) -> Transform:
    """Return the transform that reorders axes: the new axis i is the old axis `axes[i]`."""

    def transform(array: Array) -> Array:
        return np.transpose(array, axes)

    return transform


def squeeze(*axes: int) -> Transform:
    """Return the transform that takes away axes of length 1."""

    def transform(array: Array) -> Array:
        return np.squeeze(array, axes)

    return transform


def reshape(*shape: int) -> Transform:
    """Return the transform to a shape of as many numbers; one size may be -1."""

    def transform(array: Array) -> Array:
        return np.reshape(array, shape)

    return transform


def apply_keymap(
    keymap: Keymap, arrays: Mapping[str, Array], target_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Return one file's tensors under the architecture's names.

    Args:
        keymap: The table.
        arrays: The file's tensors by their published names.
        target_shapes: Name and shape of every tensor that the file has to give.

    Raises:
        CheckpointError: Tensors are missing, left over or of another shape; they are listed.
    """
    renamed = rename_arrays(keymap, arrays)
    return fill_targets(renamed.arrays, renamed.unused, target_shapes)


def rename_arrays(keymap: Keymap, arrays: Mapping[str, Array]) -> Renamed:
    """Return a file's tensors under their target names, and the names that nothing took.

    Args:
        keymap: The table.
        arrays: The file's tensors by their published names.

    Raises:
        CheckpointError: Two tensors become one target, or a transform does not fit a shape.
    """
    rows = [(re.compile(row.source), row) for row in keymap.rows]
    drop = [re.compile(source) for source in keymap.drop]
    renamed: dict[str, Array] = {}
    origins: dict[str, str] = {}
    unused = []
    labelled = arrays if keymap.label is None else keymap.label(arrays)
    for name, array in labelled.items():
        if any(pattern.fullmatch(name) for pattern in drop):
            continue
        matches = [(pattern.fullmatch(name), row) for pattern, row in rows]
        taken = [(match.expand(row.target), row) for match, row in matches if match]
        for target, row in taken:
            if target in renamed:
                raise CheckpointError(
                    f"{origins[target]!r} and {name!r} both become {target!r}", help=_HELP
                )
            renamed[target] = _transform(name, array, row)
            origins[target] = name
        if not taken:
            unused.append(name)
    return Renamed(renamed, tuple(unused))


def fill_targets(
    renamed: Mapping[str, Array],
    unused: Sequence[str],
    target_shapes: Mapping[str, tuple[int, ...]],
    origin: str = "the weights",
) -> dict[str, Array]:
    """Return every target's numbers, in C order and this machine's byte order.

    Args:
        renamed: Arrays by target name.
        unused: Published names that no row took.
        target_shapes: Name and shape of every tensor of the network.
        origin: What the weights are called in a message.

    Raises:
        CheckpointError: Any name is unused, any target is missing, unknown or of another shape.
    """
    missing = [name for name in target_shapes if name not in renamed]
    unknown = [name for name in renamed if name not in target_shapes]
    misshapen = [
        f"{name} {array.shape} in place of {tuple(target_shapes[name])}"
        for name, array in renamed.items()
        if name in target_shapes and array.shape != tuple(target_shapes[name])
    ]
    findings = (
        ("missing", missing),
        ("unused", unused),
        ("not in the network", unknown),
        ("of another shape", misshapen),
    )
    if any(names for _, names in findings):
        listed = "; ".join(f"{what}: {_list(names)}" for what, names in findings if names)
        raise CheckpointError(f"{origin} do not fit the network: {listed}", help=_HELP)
    # Shapes are the network's own by now, so a copy can be no larger than it.
    return {name: to_native(renamed[name]) for name in target_shapes}


def to_native(array: Array) -> Array:
    """Return the same numbers in this machine's byte order and in C order, copied only if needed.

    Args:
        array: Any array; one without dimensions stays so.
    """
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _transform(name: str, array: Array, row: Row) -> Array:
    if row.transform is None:
        return array
    try:
        return row.transform(array)
    except ValueError as error:
        raise CheckpointError(
            f"{name!r} of shape {array.shape} cannot become {row.target!r}: {error}", help=_HELP
        ) from error


def _list(names: Iterable[str]) -> str:
    """Return the first names, and how many there are if that is not all."""
    names = list(names)
    shown = ", ".join(names[:_LISTED])
    return f"{shown} ... ({len(names)} in all)" if len(names) > _LISTED else shown
