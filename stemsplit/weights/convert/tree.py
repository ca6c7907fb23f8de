"""Nested containers made flat: {"a": {"b": [x, y]}} -> {"a.b.0": x, "a.b.1": y}."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stemsplit.weights.convert.checkpoint import Array, Checkpoint, Scalar
from stemsplit.weights.convert.pickled import ArrayShell, Inert, Name, TensorView

# A pickle of a few bytes can hold a list ten times in a list ten times ... and be 10**n long.
MAX_ITEMS = 200_000
MAX_DEPTH = 64


def flatten(tree: object, view: Callable[[TensorView], Array]) -> Checkpoint:
    """Return the tensors and the other values of what a pickle described.

    Keys are joined by dots; lists, tuples and sets give their indices; inert objects their items
    and the attributes they would have had. An inert object that is inside itself, as one that knows
    its parent is, is not entered again.

    Args:
        tree: A dict, list, tuple or inert object.
        view: Gives the numbers of a tensor that lies outside the pickle.

    Raises:
        ValueError: It is a single value, deeper or longer than any weights are, or two of its
            paths are spelled alike.
    """
    if not isinstance(tree, (dict, list, tuple, Inert)):
        raise ValueError(f"a {_kind(tree)} alone, without a name")
    flat = _Flat(view)
    flat.add("", tree, depth=0)
    return Checkpoint(flat.arrays, flat.metadata)


class _Flat:
    """What was found so far."""

    def __init__(self, view: Callable[[TensorView], Array]) -> None:
        self.view = view
        self.arrays: dict[str, Array] = {}
        self.metadata: dict[str, Scalar] = {}
        self.count = 0
        self.entered: set[int] = set()

    def add(self, path: str, value: object, depth: int) -> None:
        self.count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"containers in containers, more than {MAX_DEPTH} deep")
        if self.count > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} values")
        if isinstance(value, Inert):
            if id(value) in self.entered:
                return
            self.entered.add(id(value))
        if isinstance(value, (dict, list, tuple, Inert)):
            for key, item in _children(value):
                self.add(f"{path}.{key}" if path else key, item, depth + 1)
            self.entered.discard(id(value))
            if isinstance(value, Inert) and not value.items and value.state is None:
                self._put(self.metadata, path, value.name)
        elif isinstance(value, TensorView):
            self._put(self.arrays, path, self.view(value))
        elif isinstance(value, ArrayShell):
            if value.array is None:
                raise ValueError(f"an array without numbers ({path!r})")
            self._put(self.arrays, path, value.array)
        elif isinstance(value, Name):
            self._put(self.metadata, path, value.dotted)
        elif value is None or isinstance(value, (str, bytes, int, float, complex)):
            self._put(self.metadata, path, value)
        elif isinstance(value, bytearray):
            self._put(self.metadata, path, bytes(value))
        else:
            raise ValueError(f"a bare {_kind(value)} ({path!r})")

    def _put(self, where: dict[str, Array] | dict[str, Scalar], path: str, value: object) -> None:
        if path in self.arrays or path in self.metadata:
            raise ValueError(f"two values that are both called {path!r}")
        where[path] = value  # type: ignore[assignment]  # each caller passes its own dict's type


def _children(
    value: dict[object, object] | list[object] | tuple[object, ...] | Inert,
) -> Iterable[tuple[str, object]]:
    """Yield what is directly inside, by the text of its key."""
    if isinstance(value, Inert):
        yield from _children(value.items)
        if isinstance(value.state, (dict, list, tuple, Inert)):
            yield from _children(value.state)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield _spell(key), item
    else:
        for index, item in enumerate(value):
            yield str(index), item


def _spell(key: object) -> str:
    if isinstance(key, Name):
        return key.dotted
    if isinstance(key, Inert):
        return key.name
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return str(key)


def _kind(value: object) -> str:
    kinds = {"ArrayShell": "array", "TensorView": "tensor", "DtypeShell": "dtype"}
    return kinds.get(type(value).__name__, type(value).__name__.lower())
