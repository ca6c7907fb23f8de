"""The options of `stemsplit batch` that no other command has."""

from __future__ import annotations

from typing import Annotated

import typer

from stemsplit.cli.arguments import OUTPUT, RUN

ENGINES = ("local", "ray")

Source = Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)]
Dest = Annotated[
    str,
    typer.Option(
        "-o", "--out", metavar="DEST", help="Output folder, or a URL.", rich_help_panel=OUTPUT
    ),
]
ReportFile = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Where the report goes.  [default: DEST/stemsplit-batch.json]",
        rich_help_panel=OUTPUT,
    ),
]
FailedFile = Annotated[
    str | None,
    typer.Option(
        "--failed",
        metavar="FILE",
        help="Where failed songs are listed.  [default: DEST/stemsplit-failed.jsonl]",
        rich_help_panel=OUTPUT,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="|".join(ENGINES), help="On this machine, or on a Ray cluster.", rich_help_panel=RUN
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto",
        help="Of the Ray cluster; without it one is started here.",
        rich_help_panel=RUN,
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Songs at the same time.  [default: 1; ray: what there is room for]",
        rich_help_panel=RUN,
    ),
]
Cpus = Annotated[
    str,
    typer.Option(
        "--cpus-per-worker", metavar="X", help="Cores of each (ray).", rich_help_panel=RUN
    ),
]
Gpus = Annotated[
    str,
    typer.Option(
        "--gpus-per-worker",
        metavar="X",
        help="GPUs of each (ray); 0.25 puts four workers on one.",
        rich_help_panel=RUN,
    ),
]
Retries = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Try a song again so often where storage failed it or its worker died.",
        rich_help_panel=RUN,
    ),
]
