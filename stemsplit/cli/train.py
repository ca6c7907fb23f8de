"""`stemsplit train`: from a recipe and a data set to a model of one's own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsplit.cli import EXIT_DONE, EXIT_STOPPED
from stemsplit.cli.arguments import HOW, INPUT, OUTPUT, RUN, WHAT, Device, Offline, Quiet
from stemsplit.cli.train_progress import choose_train_reporter
from stemsplit.cli.values import given, number, read_device, split_names
from stemsplit.cli.wording import format_table, printable
from stemsplit.errors import CancelledError, UsageError

if TYPE_CHECKING:
    from stemsplit.training.engine import Request
    from stemsplit.training.recipe import RecipeConfig

RUNS = "runs"
LISTED_COLUMNS = 100

Arch = Annotated[
    str | None,
    typer.Option(
        "-a", "--arch", metavar="NAME", help="A recipe; --list shows them.", rich_help_panel=WHAT
    ),
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe", metavar="FILE", help="A recipe of one's own instead.", rich_help_panel=WHAT
    ),
]
LearnedStems = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        "--stem",
        metavar="NAME",
        help="What to learn; may be repeated. [default: as the recipe says]",
        rich_help_panel=WHAT,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another value for the recipe: optimiser.lr=3e-4; may be repeated.",
        rich_help_panel=WHAT,
    ),
]
BeginsFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="NAME|PATH",
        help="Begin with a model's weights, not with random ones.",
        rich_help_panel=WHAT,
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="The data set; without it, a sample is fetched, which shows that training runs.",
        rich_help_panel=INPUT,
    ),
]
Valid = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|NAMES",
        help="Validation tracks: 0.1, or names with commas. [default: as the data set says]",
        rich_help_panel=INPUT,
    ),
]
RunOut = Annotated[
    str | None,
    typer.Option(
        "-o", "--out", metavar="RUN", help="The run's folder. [default: runs/NAME]",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
Resume = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Go on with a run.", rich_help_panel=OUTPUT),
]
Devices = Annotated[
    str | None,
    typer.Option(metavar="N", help="How many of the device on each machine.", rich_help_panel=HOW),
]
Nodes = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="How many machines; the command is launched on each.",
        rich_help_panel=HOW,
    ),
]
TrainPrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="32|bf16-mixed|16-mixed",
        help="Of the computation. [default: as the recipe says]",
        rich_help_panel=HOW,
    ),
]
Epochs = Annotated[
    str | None,
    typer.Option(metavar="N", help="The end, instead of the recipe's.", rich_help_panel=HOW),
]
Dev = Annotated[
    bool,
    typer.Option(
        "--dev",
        help="Go through everything in a minute: a few batches, one epoch.",
        rich_help_panel=RUN,
    ),
]
List = Annotated[
    bool, typer.Option("--list", help="Show the recipes and stop.", rich_help_panel=RUN)
]


# Longer than other functions: typer reads the options from the signature, one a line.
def train(
    arch: Arch = None,
    recipe: RecipeFile = None,
    stem: LearnedStems = None,
    settings: Settings = None,
    begins_from: BeginsFrom = None,
    root: Root = None,
    valid: Valid = None,
    out: RunOut = None,
    resume: Resume = None,
    device: Device = "auto",
    devices: Devices = None,
    nodes: Nodes = None,
    precision: TrainPrecision = None,
    epochs: Epochs = None,
    dev: Dev = False,
    show: List = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> int:
    """Train a network, by the settings that its authors published.

    Everything goes to the run's folder: the whole recipe, metrics, plots, checkpoints, and after
    every best epoch the model, which `stemsplit song.mp3 -m RUN` opens.

    Exit codes: 0 trained, 1 failed, 2 the command is wrong, 130 stopped by Ctrl-C; then
    --resume goes on.
    """
    if show:
        return show_recipes()
    changes = [*(settings or ())]
    if precision is not None:
        changes.append(f"training.precision={precision}")
    if epochs is not None:
        changes.append(f"training.max_epochs={number('--epochs', int, 1)(epochs)}")
    from stemsplit.training.engine import Machines

    machines = Machines(
        device=read_device(device),
        devices=given(number("--devices", int, 1), devices) or 0,
        nodes=given(number("--nodes", int, 1), nodes) or 0,
    )
    if resume is not None:
        for option, value in (
            ("--arch", arch), ("--recipe", recipe), ("--stem", stem), ("--from", begins_from),
            ("--out", out), ("--dev", dev or None), ("--valid", valid),
        ):  # fmt: skip
            if value is not None:
                raise UsageError(
                    f"--resume goes on with a run as it is, and {option} would change it",
                    help=f"leave out {option}, or begin another run.",
                )
        request = _go_on(Path(resume), root, changes, machines, offline)
    else:
        request = _begin(
            arch, recipe, split_names(stem), changes, out, begins_from, root, valid, machines,
            dev=dev, offline=offline,
        )  # fmt: skip
    return carry_out(request, quiet=quiet)


def carry_out(request: Request, *, quiet: bool) -> int:
    """Train, and say how it goes; in the first of several processes only.

    Raises:
        StemsplitError: It cannot begin, or cannot go on.
    """
    from stemsplit.training.engine import train as run_training

    with choose_train_reporter(quiet=quiet) as reporter:
        try:
            run_training(request, reporter.on_event)
        except CancelledError as stop:
            if _is_first():
                reporter.say(f"{stop.message}; {stop.help}")
            return EXIT_STOPPED
        # Standard error, as all that is no data.
        if not quiet and _is_first():
            reporter.say(f"trained: stemsplit song.mp3 -m {printable(request.run)}")
    return EXIT_DONE


def show_recipes() -> int:
    """Print every recipe's name and line."""
    from stemsplit.training.recipe_files import list_recipes

    rows = list(list_recipes().items())
    for line in format_table(("recipe", "what it trains"), rows, LISTED_COLUMNS):
        print(line)
    return EXIT_DONE


def _go_on(
    run: Path, root: str | None, changes: list[str], machines: object, offline: bool
) -> Request:
    from stemsplit.training.engine import Machines, Request
    from stemsplit.training.run_folder import RunFolder

    assert isinstance(machines, Machines)
    recipe = RunFolder(run).read_recipe(changes)
    return Request(
        run,
        recipe,
        root=None if root is None else Path(root),
        resumes=True,
        machines=machines,
        offline=offline,
    )


def _begin(
    arch: str | None,
    file: str | None,
    stems: tuple[str, ...] | None,
    changes: list[str],
    out: str | None,
    begins_from: str | None,
    root: str | None,
    valid: str | None,
    machines: object,
    *,
    dev: bool,
    offline: bool,
) -> Request:
    from stemsplit.datasets.splits import parse_validation
    from stemsplit.training.engine import Machines, Request, shorten
    from stemsplit.training.recipe_files import list_stem_tables, load_recipe

    assert isinstance(machines, Machines)
    if (arch is None) == (file is None):
        raise UsageError(
            "--arch and --recipe are both given" if arch else "there is no recipe to train by",
            help="name one: --arch NAME, of those that `stemsplit train --list` shows, or "
            "--recipe FILE.",
        )
    source = Path(file) if file is not None else str(arch)
    recipe: RecipeConfig = load_recipe(source, stems or (), changes)
    name = arch or Path(source).stem
    if len(recipe.model.stems) == 1:
        name += f"-{recipe.model.stems[0]}"
    run = Path(out) if out is not None else Path(RUNS, name)
    if dev:
        recipe = shorten(recipe)
        if out is None:
            run = Path(tempfile.mkdtemp(prefix="stemsplit-dev-"))
    return Request(
        run,
        recipe,
        root=None if root is None else Path(root),
        valid=None if valid is None else parse_validation(valid),
        begins_from=begins_from,
        machines=machines,
        offline=offline,
        stem_tables=list_stem_tables(source),
    )


def _is_first() -> bool:
    from stemsplit.training.processes import find_rank

    return find_rank(os.environ) == 0
