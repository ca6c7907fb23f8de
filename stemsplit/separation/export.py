"""A model's networks as graphs for other programs, with a note of what stands around them.

A graph is a network's `core`: real numbers in, real numbers out. What comes before and after it,
the transform and how its outputs become stems, the note says; those who write it for themselves
find it in stemsplit.models.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stemsplit import __version__
from stemsplit.backends.one_item import TOLERANCE, Tensors
from stemsplit.backends.onnx_graph import save_onnx
from stemsplit.backends.openvino_graph import (
    find_shapes,
    make_graph,
    measure_difference,
    save_graph,
)
from stemsplit.errors import DeviceError, UnknownNameError, UsageError
from stemsplit.models.base import Model, SpectralModel, StemModel
from stemsplit.separation.cores import make_examples
from stemsplit.separation.manifest import PARTIAL_SUFFIX
from stemsplit.separation.staging import Workplace, refuse_os_errors

if TYPE_CHECKING:
    from stemsplit.weights.entry import ModelEntry

FORMATS = ("openvino", "onnx")
NOTE = "model.json"
WINDOW = "Hann, periodic, n_fft samples; centred frames, one-sided, not normalised"


@dataclass(frozen=True)
class Exported:
    """A graph that was written.

    Attributes:
        file: Its name in the folder.
        stems: What it gives.
        difference: How far its outputs are from torch's, a relative norm.
    """

    file: str
    stems: tuple[str, ...]
    difference: float


def check_target(folder: Path, format: str) -> None:
    """Refuse what cannot be, before any work.

    Raises:
        UnknownNameError: There is no such format.
        UsageError: The folder is there, and not empty.
    """
    if format not in FORMATS:
        raise UnknownNameError("graph format", format, FORMATS)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{str(folder)!r} is there already, and not an empty folder",
            help="name another one: the export makes it.",
        )


@torch.no_grad()
def export_model(
    model: Model, entry: ModelEntry, format: str, folder: Path
) -> tuple[Exported, ...]:
    """Write a model's graphs and the note into a new folder; all of it is there, or nothing.

    It grows in a hidden folder beside; what an export that was killed left there goes with the next
    one to the same place.

    Args:
        model: From `load_model`, for just the stems that it is to give.
        entry: What is known of it.
        format: One of `FORMATS`.
        folder: Not there yet, or empty.

    Raises:
        UsageError: See `check_target`.
        DeviceError: A package is not there, or a network cannot be written so.
        OutputError: The place cannot be written to, or another process is writing there.
    """
    check_target(folder, format)
    fresh = folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")
    with refuse_os_errors(folder), Workplace(fresh, folder):
        made = fresh / "made"
        made.mkdir()
        exported = _write(model, entry, format, made)
        if folder.exists():
            folder.rmdir()
        os.replace(made, folder)
    return exported


def _write(model: Model, entry: ModelEntry, format: str, folder: Path) -> tuple[Exported, ...]:
    exported, graphs = [], []
    wanted = [stem for stem in model.stems if stem != model.residual]
    for number, (network, weights) in enumerate(model.members):
        mine = [stem for stem in wanted if stem in weights]
        part = network.only(mine).cpu().eval()
        examples = make_examples(part, any_length=not part.chunk.fixed)
        name = entry.name if len(model.members) == 1 else f"{entry.name}-{number + 1}"
        path = folder / f"{name}{'.xml' if format == 'openvino' else '.onnx'}"
        save = _save_openvino if format == "openvino" else save_onnx
        expected = [part.run_core(example) for example in examples]
        difference = save(part.core, examples, expected, path)
        if not difference < TOLERANCE:
            raise DeviceError(
                f"the graph of {name} is {difference:.1e} away from what torch computes",
                help=f"choose another format: {' or '.join(FORMATS)}.",
            )
        exported.append(Exported(path.name, tuple(mine), difference))
        shares = {stem: weights[stem] for stem in mine}
        graphs.append(
            {
                "file": path.name,
                "stems": shares,
                "inputs": _describe_ports("input", find_shapes(examples)),
                "outputs": _describe_ports("output", find_shapes(expected)),
                "difference_from_torch": difference,
                **_describe_network(part),
            }
        )
    note = {**_describe_model(model, entry), "format": format, "graphs": graphs}
    text = json.dumps(note, indent=2, ensure_ascii=False) + "\n"
    (folder / NOTE).write_text(text, encoding="utf-8")
    return tuple(exported)


def _save_openvino(
    core: nn.Module, examples: Sequence[Tensors], expected: Sequence[Tensors], path: Path
) -> float:
    """Write the graph, and measure what was written rather than what was to be."""
    save_graph(make_graph(core, examples), path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # The runtime keeps a file that it has opened: let it have a copy.
        copy = Path(folder) / path.name
        for suffix in (".xml", ".bin"):
            shutil.copyfile(path.with_suffix(suffix), copy.with_suffix(suffix))
        return measure_difference(copy, examples, expected)


def _describe_model(model: Model, entry: ModelEntry) -> dict[str, Any]:
    return {
        "model": entry.name,
        "description": entry.description,
        "stems": model.stems,
        "residual": model.residual,
        "sample_rate": model.sample_rate,
        "channels": model.channels,
        "licence": entry.licence,
        "source_page": entry.source_page,
        "weights_sha256": model.weights_sha256,
        "stemsplit": __version__,
    }


def _describe_network(model: StemModel) -> dict[str, Any]:
    told: dict[str, Any] = {
        "architecture": type(model).__name__,
        "chunk": asdict(model.chunk),
        "config": asdict(model.config),
    }
    if isinstance(model, SpectralModel):
        told["transform"] = {
            "n_fft": model.n_fft,
            "hop_length": model.hop_length,
            "pad_mode": model.pad_mode,
            "window": WINDOW,
        }
        told["before"] = _explain(model.core_inputs)
        told["after"] = _explain(model.estimate)
    return told


def _describe_ports(prefix: str, shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
    return [
        {"name": f"{prefix}_{number}", "shape": [size if size >= 0 else None for size in shape]}
        for number, shape in enumerate(shapes)
    ]


def _explain(method: Any) -> str:
    """Return what a method's own description says, as one line."""
    return " ".join((method.__doc__ or "").split("Args:")[0].split())
