"""HDF5, as NNabla and Keras write it: groups in groups, a dataset for every tensor.

The file format can point out of a file, to others or to raw bytes of any of them; weights never do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, damaged

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Weights hardly compress; a file that grows more than this is a bomb, not weights.
_LARGEST_GROWTH = 100
_ALWAYS_FINE = 1 << 26
_DEEPEST = 32


def read_hdf5(path: Path) -> Checkpoint:
    """Return all datasets of a file, named by their groups: "fc1/affine/W".

    Args:
        path: The file.

    Raises:
        CheckpointError: It is damaged, points out of itself, grows out of proportion, or holds
            something else than numbers.
        OSError: It cannot be read.
    """
    # Imported by those who have such weights: it takes a tenth of a second.
    import h5py

    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise damaged(path, "it does not begin as HDF5 does")
    limit = max(_ALWAYS_FINE, _LARGEST_GROWTH * path.stat().st_size)
    try:
        with h5py.File(path, "r") as opened:
            return Checkpoint(_read_group(opened, limit))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        # The library's own words for broken structures, under whichever type it chose.
        raise damaged(path, f"{str(error).splitlines()[0] if str(error) else error!r}") from error


def _read_group(opened: Any, limit: int) -> dict[str, Array]:
    """Read all datasets below the root. `ValueError` says what is not as weights have it."""
    import h5py

    arrays: dict[str, Array] = {}
    left = limit
    waiting = [("", opened)]
    while waiting:
        prefix, group = waiting.pop()
        if prefix.count("/") > _DEEPEST:
            raise ValueError(f"its groups are nested more than {_DEEPEST} deep")
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} points elsewhere instead of holding numbers")
            item = group[key]
            if isinstance(item, h5py.Group):
                waiting.append((f"{name}/", item))
                continue
            if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub":
                raise ValueError(f"{name!r} holds no numbers")
            if item.is_virtual or item.external:
                raise ValueError(f"{name!r} takes its numbers from other files")
            left -= item.nbytes
            if left < 0:
                raise ValueError(f"it unpacks to more than {limit} bytes")
            arrays[name] = np.asarray(item[()])
    return arrays
