"""Tensors that an original has saved, read as stemsplit reads them: nothing runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stemsplit.weights.convert import read_checkpoint


def read_saved(path: Path, inert: frozenset[str], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays below a key, by the rest of their names.

    Args:
        path: Of torch's own format.
        inert: What stands beside the tensors: the keymaps in `stemsplit.weights.keymaps` say so.
        prefix: The key and a dot.
    """
    arrays = read_checkpoint(path, "torch-pickle", inert=inert).arrays
    return {
        name.removeprefix(prefix): np.array(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
