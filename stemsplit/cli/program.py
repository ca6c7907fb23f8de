"""The commands put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stemsplit.cli.batch import batch
from stemsplit.cli.doctor import doctor
from stemsplit.cli.evaluate import evaluate
from stemsplit.cli.export import export
from stemsplit.cli.layout import Command, Root
from stemsplit.cli.models import build_models
from stemsplit.cli.prepare import prepare
from stemsplit.cli.separate import separate
from stemsplit.cli.train import train

EPILOG = """\b
Examples:
  stemsplit song.mp3                           stems in ./stems/song/
  stemsplit song.mp3 --two-stems vocals        vocals, and all but vocals
  stemsplit album/ *.flac -o out/ --format flac
  cat song.opus | stemsplit - -o out/
  stemsplit models list                        what else can separate
A file that is called like a command is reached as ./models.
"""


def build_program() -> Any:
    """Return the whole program as a click command."""
    app = typer.Typer(
        cls=Root,
        rich_markup_mode=None,
        epilog=EPILOG,
        context_settings={"help_option_names": ["--help"], "max_content_width": 100},
    )
    app.callback()(stemsplit)
    app.command(cls=Command)(separate)
    app.command(cls=Command)(batch)
    app.add_typer(build_models(), name="models")
    app.command(cls=Command)(prepare)
    app.command(cls=Command)(train)
    app.command("eval", cls=Command)(evaluate)
    app.command(cls=Command)(export)
    app.command(cls=Command)(doctor)
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from stemsplit import __version__

        print(f"stemsplit {__version__}")
        raise typer.Exit


def stemsplit(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take music apart into stems: vocals, accompaniment, drums ... each a file, in time and level.

    FILE is anything ffmpeg decodes, a folder, a pattern, or - for standard input. Outputs appear
    whole or not at all; a rerun goes on where it was stopped.
    """
