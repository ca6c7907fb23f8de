"""What may stand on a command line: the options' names and texts, where commands share them."""

from __future__ import annotations

from typing import Annotated

import typer

from stemsplit.backends import BACKENDS
from stemsplit.cli.values import PRECISIONS
from stemsplit.separation.plan import FRAMINGS, MAX_OVERLAP

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")
CLIP_MODES = ("none", "rescale", "clamp")

WHAT, OUTPUT, INPUT, HOW, RUN = (
    "What comes out",
    "Where and in which format",
    "What goes in",
    "How it is separated",
    "The run",
)


def complete_model(incomplete: str) -> list[str]:
    """Return the models whose names begin so, for the shell."""
    from stemsplit.errors import StemsplitError
    from stemsplit.weights.registry import Registry

    try:
        names = Registry.load().names()
    except StemsplitError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Files = Annotated[list[str] | None, typer.Argument(metavar="FILE...", show_default=False)]
ModelName = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME|PATH",
        help="Which model; `stemsplit models` lists them. A path opens one of your own.",
        autocompletion=complete_model,
        rich_help_panel=WHAT,
    ),
]
Stems = Annotated[
    list[str] | None,
    typer.Option(
        "--stems",
        metavar="A,B",
        help="Only these stems; others are not computed where the model allows it.",
        rich_help_panel=WHAT,
    ),
]
TwoStems = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="This stem, and the mixture without it as no_NAME.",
        rich_help_panel=WHAT,
    ),
]
Residual = Annotated[
    bool,
    typer.Option(
        "--residual",
        help="Also what is left over, so that all stems sum to the mixture.",
        rich_help_panel=WHAT,
    ),
]
StemMp4 = Annotated[
    bool,
    typer.Option(
        "--stem-mp4",
        help="Also one .stem.mp4 with the mixture and all stems, for DJ software.",
        rich_help_panel=WHAT,
    ),
]
Out = Annotated[
    str,
    typer.Option("-o", "--out", metavar="DIR", help="Output folder.", rich_help_panel=OUTPUT),
]
Filename = Annotated[
    str,
    typer.Option(
        metavar="TEMPLATE",
        help="Of {track} {stem} {ext} {model} {artist} {title} {album}.",
        rich_help_panel=OUTPUT,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        metavar="|".join(FORMATS),
        help="Of all stems.",
        rich_help_panel=OUTPUT,
    ),
]
Bits = Annotated[
    str | None,
    typer.Option(
        metavar="16|24|32",
        help="Of wav and flac; 32 is floating point.  [default: 24]",
        rich_help_panel=OUTPUT,
    ),
]
BitRate = Annotated[
    str | None,
    typer.Option(
        "--bitrate",
        metavar="KBPS",
        help="Of mp3, ogg, opus and m4a.",
        rich_help_panel=OUTPUT,
    ),
]
Clip = Annotated[
    str,
    typer.Option(
        metavar="|".join(CLIP_MODES),
        help="Beyond full scale: leave it, turn all stems down by one gain, or limit.",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Separate again what is done, and write over files that are in the way.",
        rich_help_panel=OUTPUT,
    ),
]
Stream = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Which audio stream of the file, from 0.",
        rich_help_panel=INPUT,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Begin here: seconds, m:ss or h:mm:ss.",
        rich_help_panel=INPUT,
    ),
]
Duration = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Take so much.",
        rich_help_panel=INPUT,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]|mps",
        help="Where the network runs.",
        rich_help_panel=HOW,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="|".join(BACKENDS),
        help="What computes the network; auto takes what is fastest on this machine.",
        rich_help_panel=HOW,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="How many of the processor's threads the network may use.",
        rich_help_panel=HOW,
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="So many chunks go through the network together. More needs more memory.",
        rich_help_panel=HOW,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="|".join(PRECISIONS),
        help="In what numbers the network computes.",
        rich_help_panel=HOW,
    ),
]
Segment = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Length of a chunk, instead of the model's own. Shorter needs less memory.",
        rich_help_panel=HOW,
    ),
]
Overlap = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help=f"Of a chunk, seen again by the next: 0 to {MAX_OVERLAP}.",
        rich_help_panel=HOW,
    ),
]
Shifts = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Average N runs whose chunks begin elsewhere: N times slower.",
        rich_help_panel=HOW,
    ),
]
Seed = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Decides the shifts.",
        rich_help_panel=HOW,
    ),
]
WienerIterations = Annotated[
    str,
    typer.Option(
        "--wiener",
        metavar="N",
        help="Iterations of the multichannel Wiener filter.",
        rich_help_panel=HOW,
    ),
]
FramingName = Annotated[
    str,
    typer.Option(
        "--framing",
        metavar="|".join(FRAMINGS),
        help="original: the whole song at once, as in the papers. Memory grows with it.",
        rich_help_panel=HOW,
    ),
]
Jobs = Annotated[
    str,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N",
        help="Songs at the same time.",
        rich_help_panel=RUN,
    ),
]
Registries = Annotated[
    list[str] | None,
    typer.Option(
        "--registry",
        metavar="FILE",
        help="A registry file that adds models or replaces them; may be repeated.",
        rich_help_panel=RUN,
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="The data set; without it, MUSDB18's 7-second sample is fetched.",
        rich_help_panel=WHAT,
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Download nothing.", rich_help_panel=RUN),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be written where, and stop.", rich_help_panel=RUN
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Say nothing but errors.", rich_help_panel=RUN),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object per line on standard output.",
        rich_help_panel=RUN,
    ),
]
