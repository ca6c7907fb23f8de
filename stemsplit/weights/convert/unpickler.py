"""A pickle machine that imports nothing and calls nothing: it builds plain values or refuses.

The standard library's `pickletools` decodes the instructions without acting on them; this module
acts on the few that data need. There is no way from here to Python's own objects: a global is a
`Name`, a call is a look-up in `BUILDERS`, an attribute is set on nothing but this package's values.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from stemsplit.errors import UnsafeWeightsError
from stemsplit.weights.convert.checkpoint import damaged
from stemsplit.weights.convert.pickled import (
    BUILDERS,
    NAMES,
    ArrayShell,
    DtypeShell,
    Inert,
    Name,
    Storage,
    build_storage,
    is_key,
)

_HIGHEST_PROTOCOL = 5
_PUSHED = frozenset(
    {
        *("NONE", "NEWTRUE", "NEWFALSE"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def unpickle(
    path: Path,
    stream: BinaryIO,
    *,
    inert: frozenset[str] = frozenset(),
    storages: dict[str, Storage] | None = None,
) -> object:
    """Return what one pickle describes, and leave the stream behind its last byte.

    Args:
        path: The file, for messages.
        stream: At the pickle's first byte; it can be sought.
        inert: Dotted names that become an `Inert` placeholder in place of a refusal.
        storages: Where torch's storages are noted by key, as the persistent ids name them; without
            it such ids are refused.

    Raises:
        UnsafeWeightsError: The pickle asks for a global that is neither known nor inert.
        CheckpointError: It is truncated, or no pickle, or its parts do not fit.
    """
    return _Machine(path, stream, inert, storages).run()


class _Machine:
    """The stack machine that a pickle is a program for.

    A mark opens a new list of operands, and closing it hands that list to the instruction.
    """

    def __init__(
        self,
        path: Path,
        stream: BinaryIO,
        inert: frozenset[str],
        storages: dict[str, Storage] | None,
    ) -> None:
        self.path = path
        self.stream = stream
        self.inert = inert
        self.storages = storages
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        start = stream.tell()
        # A call may copy a text or a list; a few bytes can ask for the same copy again and again.
        # Honest pickles copy each of their bytes once, so twice their length is plenty.
        self.copies_left = 2 * (stream.seek(0, io.SEEK_END) - start) + 4096
        stream.seek(start)

    def run(self) -> object:
        """Follow the instructions up to STOP; return the value on top."""
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                if opcode.name in _PUSHED:
                    self.stack.append(_CONSTANTS.get(opcode.name, argument))
                    continue
                if opcode.name == "STOP":
                    break
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise self.refusal(f"the pickle instruction {opcode.name}")
                step(self, argument)
            return self.pop()
        # A text with a wrong escape is a warning, and an error where those are switched to errors.
        except (ValueError, DeprecationWarning) as error:
            raise damaged(self.path, f"its pickle is broken: {error}") from error

    def refusal(self, asked: str) -> UnsafeWeightsError:
        """Return the error that names what was asked for."""
        return UnsafeWeightsError(
            f"{self.path} is refused: it asks for {asked}, which weights have no use for; "
            "nothing was run",
            help="do not load it elsewhere unless you trust whoever made it; ask them for "
            "a safetensors file.",
        )

    def pop(self) -> object:
        """Take the top of the stack."""
        if not self.stack:
            raise ValueError("an instruction without its operand")
        return self.stack.pop()

    def top(self) -> object:
        """Look at the top of the stack."""
        if not self.stack:
            raise ValueError("an instruction without its operand")
        return self.stack[-1]

    def close_mark(self) -> list[object]:
        """Return what was pushed since the last mark."""
        if not self.marked:
            raise ValueError("an instruction without its mark")
        items, self.stack = self.stack, self.marked.pop()
        return items

    # Containers

    def open_mark(self, _: object) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def discard(self, _: object) -> None:
        # Popping a mark is popping everything above it.
        if self.stack:
            self.stack.pop()
        else:
            self.close_mark()

    def discard_marked(self, _: object) -> None:
        self.close_mark()

    def duplicate(self, _: object) -> None:
        self.stack.append(self.top())

    def push_list(self, _: object) -> None:
        self.stack.append([])

    def push_dict(self, _: object) -> None:
        self.stack.append({})

    def push_tuple(self, _: object) -> None:
        self.stack.append(())

    def close_list(self, _: object) -> None:
        items = self.close_mark()
        self.stack.append(items)

    def close_tuple(self, _: object) -> None:
        items = tuple(self.close_mark())
        self.stack.append(items)

    def close_dict(self, _: object) -> None:
        items = self.close_mark()
        self.stack.append({})
        self.put_items(items)

    def take_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("an instruction without its operand")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def append(self, _: object) -> None:
        self.add_elements([self.pop()])

    def append_marked(self, _: object) -> None:
        self.add_elements(self.close_mark())

    def set_item(self, _: object) -> None:
        value = self.pop()
        self.put_items([self.pop(), value])

    def set_marked(self, _: object) -> None:
        self.put_items(self.close_mark())

    def add_elements(self, elements: list[object]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(elements)
        elif isinstance(target, Inert):
            start = len(target.items)
            target.items.update(enumerate(elements, start))
        else:
            raise ValueError(f"elements for a {type(target).__name__}")

    def put_items(self, items: list[object]) -> None:
        target = self.top()
        if isinstance(target, Inert):
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"keys and values for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise ValueError(f"a {type(key).__name__} as a key")
            target[key] = value

    # Memory

    def remember(self, index: object) -> None:
        if not isinstance(index, int) or index < 0:
            raise ValueError("a memo without a number")
        self.memo[index] = self.top()

    def remember_next(self, _: object) -> None:
        self.memo[len(self.memo)] = self.top()

    def recall(self, index: object) -> None:
        if not isinstance(index, int) or index not in self.memo:
            raise ValueError("a reference to something that it never remembered")
        self.stack.append(self.memo[index])

    # Names, calls and states: everything a pickle could do harm with

    def ignore(self, _: object) -> None:
        """A frame only says how many bytes to read ahead."""

    def check_protocol(self, version: object) -> None:
        if not isinstance(version, int) or version > _HIGHEST_PROTOCOL:
            raise ValueError(f"protocol {version}")

    def push_name(self, pair: object) -> None:
        self.stack.append(self.name(str(pair).replace(" ", ".", 1)))

    def push_stacked_name(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global whose name is no text")
        self.stack.append(self.name(f"{module}.{name}"))

    def name(self, dotted: str) -> Name:
        if dotted not in BUILDERS and dotted not in NAMES and dotted not in self.inert:
            raise self.refusal(repr(dotted))
        return Name(dotted)

    def push_storage(self, _: object) -> None:
        identity = self.pop()
        if self.storages is None:
            raise self.refusal("an object by a persistent id")
        storage = build_storage(identity)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"a storage {storage.key!r} of two types or sizes")
        self.stack.append(storage)

    def call(self, _: object) -> None:
        arguments = self.pop()
        self.stack.append(self.build(self.pop(), arguments))

    def call_with_keywords(self, _: object) -> None:
        keywords, arguments = self.pop(), self.pop()
        made = self.build(self.pop(), arguments)
        if not isinstance(made, Inert):
            raise ValueError(f"keyword arguments for a {type(made).__name__}")
        made.state = keywords
        self.stack.append(made)

    def call_marked(self, pair: object) -> None:
        arguments = tuple(self.close_mark())
        self.stack.append(self.build(self.name(str(pair).replace(" ", ".", 1)), arguments))

    def call_first_marked(self, _: object) -> None:
        items = self.close_mark()
        if not items:
            raise ValueError("an instruction without its operand")
        self.stack.append(self.build(items[0], tuple(items[1:])))

    def build(self, callee: object, arguments: object) -> object:
        """Return what stands for calling `callee`: known names are built, inert ones kept."""
        if not isinstance(callee, Name):
            raise self.refusal(f"a call of a {type(callee).__name__}")
        if not isinstance(arguments, tuple):
            raise ValueError(f"a call of {callee.dotted} without arguments")
        if callee.dotted in BUILDERS:
            copied = sum(len(part) for part in arguments if isinstance(part, (str, bytes, list)))
            self.copies_left -= copied
            if self.copies_left < 0:
                raise ValueError("more copies of its own parts than it is long")
            try:
                return BUILDERS[callee.dotted](arguments)
            except ValueError as error:
                raise ValueError(f"{error} ({callee.dotted})") from error
        if callee.dotted in self.inert:
            return Inert(callee.dotted, arguments)
        raise self.refusal(f"a call of {callee.dotted!r}")

    def set_state(self, _: object) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, (ArrayShell, DtypeShell)):
            target.build(state)
        elif isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):
            raise ValueError(f"attributes for a {type(target).__name__}")
        # Attributes of an ordered dict are torch's `_metadata`, the versions of its modules.


_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": _Machine.check_protocol,
    "FRAME": _Machine.ignore,
    "MARK": _Machine.open_mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_marked,
    "DUP": _Machine.duplicate,
    "EMPTY_LIST": _Machine.push_list,
    "EMPTY_DICT": _Machine.push_dict,
    "EMPTY_TUPLE": _Machine.push_tuple,
    "LIST": _Machine.close_list,
    "TUPLE": _Machine.close_tuple,
    "DICT": _Machine.close_dict,
    "TUPLE1": lambda machine, _: machine.take_tuple(1),
    "TUPLE2": lambda machine, _: machine.take_tuple(2),
    "TUPLE3": lambda machine, _: machine.take_tuple(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_marked,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_marked,
    "EMPTY_SET": _Machine.push_list,
    "ADDITEMS": _Machine.append_marked,
    "FROZENSET": _Machine.close_list,
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember_next,
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_stacked_name,
    "BINPERSID": _Machine.push_storage,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "INST": _Machine.call_marked,
    "OBJ": _Machine.call_first_marked,
    "BUILD": _Machine.set_state,
}
"""One entry per instruction; PERSID, EXT1, EXT2, EXT4 and out-of-band buffers are left out."""
