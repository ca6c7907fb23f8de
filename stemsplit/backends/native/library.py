"""The compiled layers: which library is for this processor, and what it takes.

`hatch_build.py` compiles them when the package is built, for every kind of vectors that
the processor's family has. Where there was no compiler there is none, and torch does the work.
Convolutions by those of one machine are the same to the last bit, and so are matrices by those that
compute them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

VARIABLE = "STEMSPLIT_NATIVE"
"""0 leaves everything to torch."""

_LIBRARIES = {"AVX512": ("avx512", "avx512vl"), "AVX2": ("avx2",)}

_FUNCTIONS = {
    **dict.fromkeys(("lanes", "patch_lanes", "halves"), ctypes.c_int32),
    **dict.fromkeys(
        (
            "task_size",
            "layer_size",
            "patches_size",
            "planes_size",
            "row_layer_size",
            "row_image_size",
            "matrix_size",
        ),
        ctypes.c_int64,
    ),
    **dict.fromkeys(("count_tiles", "workspace", "count_kernels"), ctypes.c_int64),
    "rows_workspace": ctypes.c_int64,
    **dict.fromkeys(
        (
            *("pack", "convolve_beside", "follow", "write_patches", "convolve_planes"),
            *("follow_rows", "multiply_rows"),
        )
    ),
}
"""And what they return."""


class Source(ctypes.Structure):
    """A grid of an input's pixels. See `convolution.h`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("channels", "image", "row", "pixel")),
        *((name, ctypes.c_int64) for name in ("first_row", "first_column", "tall", "wide")),
    )


class Target(ctypes.Structure):
    """A grid of the output's pixels. See `convolution.h`."""

    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("first_row", "first_column", "tall", "wide")
    )


class Image(ctypes.Structure):
    """Where an image's pixels lie. See `convolution.h`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("image", "row", "pixel")),
    )


class Task(ctypes.Structure):
    """All that a convolution is told. See `convolution.h`."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("images", "grid_rows", "grid_columns", "left", "right", "classes"),
                *("in_rows", "in_columns", "in_step", "out_rows", "out_columns", "out_step"),
                *("channels", "sources", "targets", "packed", "rectify"),
            )
        ),
        ("source", ctypes.POINTER(Source)),
        ("target", ctypes.POINTER(Target)),
        *((name, ctypes.c_void_p) for name in ("kernels", "bias", "scale", "shift")),
        *((name, Image) for name in ("out", "plus", "bare")),
        *((name, ctypes.c_int64) for name in ("padded", "affine_first")),
        ("slope", ctypes.c_float),
    )


class Patches(ctypes.Structure):
    """All that a convolution is told that goes through an image by patches. See `convolution.h`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("in_row", "in_step", "sums", "in_rows", "out_rows", "row")
        ),
        *((name, ctypes.c_void_p) for name in ("kernels", "bias", "out")),
        ("out_row", ctypes.c_int64),
        ("slope", ctypes.c_float),
    )


class Layer(ctypes.Structure):
    """A layer of a dense block, and how far it has got. See `dense.c`."""

    _fields_ = (
        ("task", ctypes.POINTER(Task)),
        ("patches", ctypes.POINTER(Patches)),
        *((name, ctypes.c_int64) for name in ("block", "lead")),
        ("window", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("first", "done")),
    )


class RowLayer(ctypes.Structure):
    """A convolution whose kernel has one row. See `convolution.h`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("taps", "pad", "channels", "wide", "outs")),
        *((name, ctypes.c_void_p) for name in ("kernels", "bias")),
        ("slope", ctypes.c_float),
    )


class RowImage(ctypes.Structure):
    """What it reads or writes. See `convolution.h`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("channels", "row", "pixel", "rows")),
    )


class Planes(ctypes.Structure):
    """All that a convolution of one channel is told. See `planes.c`."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("rows", "columns", "outs", "out_rows", "out_columns"),
                *("tall", "wide", "dilation", "top", "left"),
            )
        ),
        *((name, ctypes.c_void_p) for name in ("input", "kernels", "bias", "out")),
    )


class Matrix(ctypes.Structure):
    """A matrix that every row of an image is multiplied with. See `convolution.h`."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("rows", "in_row", "sums", "channels", "outs", "parts")
        ),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "scale", "shift", "shares")),
        ("stems", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        ("slope", ctypes.c_float),
    )


class Library:
    """Compiled `convolution.c`, `dense.c`, `matrices.c`, `patches.c`, `planes.c` and `rows.c`.

    Attributes:
        lanes: How many numbers its vectors hold.
        patch_lanes: And those of `matrices.c`, `patches.c` and `rows.c`.
        halves: Whether this processor takes them in two steps.
    """

    def __init__(self, path: Path) -> None:
        """Load it.

        Args:
            path: The library's file.

        Raises:
            OSError: It is not there, or not for this machine.
        """
        library = ctypes.CDLL(str(path))
        others = f"{path.name} was built from other sources than these"
        try:
            for name, result in _FUNCTIONS.items():
                getattr(library, f"stemsplit_{name}").restype = result
            sizes = (
                library.stemsplit_task_size(),
                library.stemsplit_layer_size(),
                library.stemsplit_patches_size(),
                library.stemsplit_planes_size(),
                library.stemsplit_row_layer_size(),
                library.stemsplit_row_image_size(),
                library.stemsplit_matrix_size(),
            )
        except AttributeError as error:
            raise OSError(others) from error
        structures = (Task, Layer, Patches, Planes, RowLayer, RowImage, Matrix)
        if sizes != tuple(map(ctypes.sizeof, structures)):
            raise OSError(others)
        self.lanes: int = library.stemsplit_lanes()
        self.patch_lanes: int = library.stemsplit_patch_lanes()
        self.halves = bool(library.stemsplit_halves())
        self._library = library

    def pack(self, task: Task, taps: Tensor) -> Tensor:
        """Transform kernels as `convolve` reads them.

        Args:
            task: Of one input; where images are is not looked at.
            taps: Shape (3, 3, sources, C_in, targets, C_out).
        """
        taps = taps.contiguous()
        kernels = torch.empty(self._library.stemsplit_count_kernels(ctypes.byref(task)))
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (taps, kernels))
        self._library.stemsplit_pack(ctypes.byref(task), *pointers)
        return kernels

    def count_tiles(self, task: Task) -> int:
        """Return how many tiles a convolution has."""
        return int(self._library.stemsplit_count_tiles(ctypes.byref(task)))

    def count_floats(self, task: Task, tiles: int) -> int:
        """Return how large a workspace is that holds so many tiles."""
        return int(self._library.stemsplit_workspace(ctypes.byref(task), ctypes.c_int64(tiles)))

    def convolve(
        self, task: Task, next_tile: ctypes.c_int64, block: int, workspace: Tensor
    ) -> None:
        """Compute a convolution's tiles, beside other threads that were given the same number.

        Args:
            task: Whose pointers are to memory that stays where it is.
            next_tile: The first that nobody has begun; is counted on.
            block: How many at once.
            workspace: As many floats as `count_floats` says for a block, nobody else's meanwhile.
        """
        self._library.stemsplit_convolve_beside(
            ctypes.byref(task),
            ctypes.byref(next_tile),
            ctypes.c_int64(block),
            ctypes.c_void_p(workspace.data_ptr()),
        )

    def follow(self, layers: Sequence[Layer], step: int, workspace: Tensor) -> None:
        """Compute some columns of a dense block's output; other threads go on meanwhile.

        Args:
            layers: Whose pointers are to memory that stays where it is.
            step: How many rows of each layer at once.
            workspace: As many floats as `count_floats` says for the largest of the layers' blocks,
                nobody else's meanwhile.
        """
        sizes = ctypes.c_int64(len(layers)), ctypes.c_int64(step)
        self._library.stemsplit_follow(
            (Layer * len(layers))(*layers), *sizes, ctypes.c_void_p(workspace.data_ptr())
        )

    def write_patches(self, task: Patches, rows: range, columns: range) -> None:
        """Compute what some of an image's patches give; other threads go on meanwhile.

        Args:
            task: Whose pointers are to memory that stays where it is.
            rows: Which rows of patches.
            columns: Which patches of each; the output begins with what the first one gives.
        """
        edges = (rows.start, rows.stop, columns.start, columns.stop)
        self._library.stemsplit_write_patches(ctypes.byref(task), *map(ctypes.c_int64, edges))

    def count_row_floats(self, layers: ctypes.Array[RowLayer], columns: int, step: int) -> int:
        """Return how large a workspace is for layers, so many rows of each at once."""
        sizes = map(ctypes.c_int64, (len(layers), columns, step))
        return int(self._library.stemsplit_rows_workspace(layers, *sizes))

    def follow_rows(
        self,
        layers: ctypes.Array[RowLayer],
        images: ctypes.Array[RowImage],
        out: RowImage,
        columns: int,
        rows: range,
        workspace: Tensor,
    ) -> None:
        """Compute some rows of what the last of some layers gives; other threads go on meanwhile.

        Args:
            layers: Their pointers, and all others, are to memory that stays where it is.
            images: What they read, beside what the layers before them give.
            out: What the last one writes.
            columns: Of each image.
            rows: Which; their step is how many of each layer are computed at once.
            workspace: As many floats as `count_row_floats` says, nobody else's meanwhile.
        """
        integer = ctypes.c_int64
        self._library.stemsplit_follow_rows(
            *(layers, integer(len(layers)), images, integer(len(images)), ctypes.byref(out)),
            *map(integer, (columns, rows.start, rows.stop, rows.step)),
            ctypes.c_void_p(workspace.data_ptr()),
        )

    def convolve_planes(self, task: Planes, first: int, last: int) -> None:
        """Compute some rows of all channels of all images; other threads go on meanwhile.

        Args:
            task: Whose pointers are to memory that stays where it is.
            first: The first row.
            last: The one behind the last.
        """
        edges = ctypes.c_int64(first), ctypes.c_int64(last)
        self._library.stemsplit_convolve_planes(ctypes.byref(task), *edges)

    def multiply_rows(self, task: Matrix, first: int, last: int) -> None:
        """Compute some outputs of every row; other threads go on meanwhile.

        Args:
            task: Whose pointers are to memory that stays where it is.
            first: The first output.
            last: The one behind the last.
        """
        edges = ctypes.c_int64(first), ctypes.c_int64(last)
        self._library.stemsplit_multiply_rows(ctypes.byref(task), *edges)


def are_faster(precision: str) -> bool:
    """Tell whether convolutions in C, in float32, beat those by their definition in other numbers.

    Vectors of bf16 do not make up for three or four times as many products. The processors of
    Intel's that multiply whole matrices in bf16 should.

    Args:
        precision: "fp32", "bf16" or "fp16".
    """
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    return precision == "fp32" or not has_amx()


@functools.cache
def find_library() -> Library | None:
    """Return the library for this processor; None where there is none, or it is not wanted."""
    if os.environ.get(VARIABLE) == "0":
        return None
    names = _LIBRARIES.get(torch.backends.cpu.get_cpu_capability(), ())
    if platform.machine().lower() in ("arm64", "aarch64"):
        names = ("neon",)
    found = None
    for name in names:
        try:
            library = Library(Path(__file__).parent / f"convolution-{name}.so")
        except OSError:
            continue
        if not library.halves:
            return library
        found = library
    return found
