"""Graphs that another runtime makes of a model's weights: kept beside those, made once."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from stemsplit.weights.disk import make_folder, replace_file, translate_errors
from stemsplit.weights.store import Store


def find_graph(store: Store, name: str, key: str, write: Callable[[Path], None]) -> Path:
    """Return a graph's .xml, whose weights are beside it; made where it is missing or damaged.

    Several processes may ask at once: one makes it, the others wait.

    Args:
        store: Where it is kept.
        name: The model's: `Store.remove` takes its graphs too.
        key: 16 hexadecimal digits, of all that decides what the graph is.
        write: Makes the graph, as the path that it gets and its neighbour with .bin.

    Raises:
        OutputError: The cache cannot be written to.
    """
    path = store.converted_path(f"{name}-{key}", ".xml")
    if store.is_intact(path):
        return path
    with store.locked(name):
        if not store.is_intact(path):
            folder = make_folder(path.parent)
            prefix = f".{path.stem}."
            for left in folder.glob(f"{glob.escape(prefix)}*"):
                shutil.rmtree(left, ignore_errors=True)  # Of one that was killed: we hold the lock.
            with (
                translate_errors(path),
                tempfile.TemporaryDirectory(dir=folder, prefix=prefix) as fresh,
            ):
                made = Path(fresh) / path.name
                write(made)
                # Until it is sealed, whatever is there counts for nothing.
                for suffix in (".bin", ".xml"):
                    replace_file(made.with_suffix(suffix), path.with_suffix(suffix))
            store.seal(path)
    return path
