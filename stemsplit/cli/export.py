"""`stemsplit export -m NAME --to openvino|onnx -o DIR`: a model's networks for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stemsplit.cli.arguments import (
    OUTPUT,
    ModelName,
    Offline,
    Quiet,
    Registries,
    Stems,
)
from stemsplit.cli.progress import choose_reporter
from stemsplit.cli.stopping import stoppable
from stemsplit.cli.values import one_of, split_names
from stemsplit.cli.wording import printable
from stemsplit.errors import UsageError
from stemsplit.separation.plan import Options, plan_stems

GRAPHS = ("openvino", "onnx")

Target = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="|".join(GRAPHS),
        help="OpenVINO's .xml and .bin, or .onnx.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Folder = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="DIR",
        help="A new folder for the graphs and their model.json.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]


def export(
    model: ModelName = None,
    to: Target = None,
    out: Folder = None,
    stems: Stems = None,
    registry: Registries = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> int:
    """Write a model's networks as graphs that other programs run, and say how to feed them.

    Each graph is compared with torch on random input before it is given its place; model.json says
    what goes in and comes out.
    """
    if to is None or out is None:
        missing = "--to" if to is None else "-o"
        raise UsageError(
            f"{missing} is missing", help="write: stemsplit export -m NAME --to openvino -o DIR"
        )
    format = one_of("graph format", GRAPHS)(to)
    from stemsplit.weights.own_models import find_entry
    from stemsplit.weights.registry import Registry

    known = Registry.load([Path(name) for name in registry or ()])
    entry = find_entry(model, known)
    options = Options(stems=split_names(stems))
    wanted = plan_stems(entry.stems, options, entry.residual).of_model
    reporter = choose_reporter(quiet=quiet, as_json=False)
    with stoppable(), reporter:
        from stemsplit.separation.export import NOTE, check_target, export_model
        from stemsplit.weights.load import load_entry
        from stemsplit.weights.store import Store

        folder = Path(out)
        check_target(folder, format)

        def on_progress(done_bytes: int, total_bytes: int | None) -> None:
            reporter.on_download(entry.name, done_bytes, total_bytes)

        store = Store(offline=True if offline else None)
        loaded = load_entry(entry, registry=known, store=store, on_progress=on_progress)
        exported = export_model(loaded.only(wanted), entry, format, folder)
    if not quiet:
        for graph in exported:
            given = f"{', '.join(graph.stems)}; {graph.difference:.1e} from torch"
            print(printable(f"{folder / graph.file}: {given}"))
        print(printable(str(folder / NOTE)))
    return 0
