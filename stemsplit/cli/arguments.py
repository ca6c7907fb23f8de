"""What may stand on a command line: the options' names, their texts, and what their values mean.

Values are read here, not by typer, so that a wrong one is told in stemsplit's own two lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.separation.plan import FRAMINGS, MAX_OVERLAP

FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")
CLIP_MODES = ("none", "rescale", "clamp")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")

WHAT, OUTPUT, INPUT, HOW, RUN = (
    "What comes out",
    "Where and in which format",
    "What goes in",
    "How it is separated",
    "The run",
)

NumberT = TypeVar("NumberT", int, float)

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)")


def one_of(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return a reader of names.

    Args:
        kind: What is named.
        known: The names that there are.
    """
    names = tuple(known)

    def read(text: str) -> str:
        if text not in names:
            raise UnknownNameError(kind, text, names)
        return text

    return read


def read_device(text: str) -> str:
    """Check the form of a device's name; whether this machine has it shows later.

    Raises:
        UnknownNameError: No device is called that.
    """
    if text in DEVICES or re.fullmatch(r"cuda:\d+", text):
        return text
    raise UnknownNameError("device", text, DEVICES)


def number(
    option: str, kind: type[NumberT], least: float, most: float = math.inf, *, above: bool = False
) -> Callable[[str], NumberT]:
    """Return a reader of numbers in a range.

    Args:
        option: As it is typed, for the message.
        kind: `int` or `float`.
        least: The lowest value.
        most: The highest.
        above: Whether the value has to be more than `least`.
    """

    def read(text: str) -> NumberT:
        try:
            value = kind(text)
        except ValueError:
            value = None
        is_low = value is not None and (value <= least if above else value < least)
        if value is None or not math.isfinite(value) or is_low or value > most:
            noun = "a whole number" if kind is int else "a number"
            low = f"above {least:g}" if above else f"from {least:g}"
            high = "" if most == math.inf else f" to {most:g}"
            raise UsageError(f"{option} {text!r} is not possible", help=f"give {noun} {low}{high}.")
        return value

    return read


def time_of(option: str) -> Callable[[str], float]:
    """Return a reader of times: "90", "90.5", "1:30", "1:02:03.25" -> seconds."""

    def read(text: str) -> float:
        match = _CLOCK.fullmatch(text.strip())
        if match is None or (match[2] is not None and float(match[3]) >= 60):
            raise UsageError(
                f"{option} {text!r} is not a time",
                help="write seconds, m:ss or h:mm:ss, such as 90.5, 1:30 or 1:02:03.",
            )
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return 3600 * hours + 60 * minutes + seconds

    return read


def split_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Return the names of a repeatable, comma-separated option; None where it was not given."""
    if not values:
        return None
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


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
    Path,
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
    int | None,
    typer.Option(
        metavar="16|24|32",
        parser=number("--bits", int, 1),
        help="Of wav and flac; 32 is floating point.  [default: 24]",
        rich_help_panel=OUTPUT,
    ),
]
BitRate = Annotated[
    int | None,
    typer.Option(
        "--bitrate",
        metavar="KBPS",
        parser=number("--bitrate", int, 1),
        help="Of mp3, ogg, opus and m4a.",
        rich_help_panel=OUTPUT,
    ),
]
Clip = Annotated[
    str,
    typer.Option(
        metavar="|".join(CLIP_MODES),
        parser=one_of("clip mode", CLIP_MODES),
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
    int,
    typer.Option(
        metavar="N",
        parser=number("--stream", int, 0),
        help="Which audio stream of the file, from 0.",
        rich_help_panel=INPUT,
    ),
]
Start = Annotated[
    float | None,
    typer.Option(
        metavar="TIME",
        parser=time_of("--start"),
        help="Begin here: seconds, m:ss or h:mm:ss.",
        rich_help_panel=INPUT,
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        metavar="TIME",
        parser=time_of("--duration"),
        help="Take so much.",
        rich_help_panel=INPUT,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]|mps",
        parser=read_device,
        help="Where the network runs.",
        rich_help_panel=HOW,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="|".join(PRECISIONS),
        parser=one_of("precision", PRECISIONS),
        help="In what numbers the network computes.",
        rich_help_panel=HOW,
    ),
]
Segment = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        parser=number("--segment", float, 0, above=True),
        help="Length of a chunk, instead of the model's own. Shorter needs less memory.",
        rich_help_panel=HOW,
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        parser=number("--overlap", float, 0, MAX_OVERLAP),
        help=f"Of a chunk, seen again by the next: 0 to {MAX_OVERLAP}.",
        rich_help_panel=HOW,
    ),
]
Shifts = Annotated[
    int,
    typer.Option(
        metavar="N",
        parser=number("--shifts", int, 0),
        help="Average N runs whose chunks begin elsewhere: N times slower.",
        rich_help_panel=HOW,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        parser=number("--seed", int, 0, 2**63 - 1),
        help="Decides the shifts.",
        rich_help_panel=HOW,
    ),
]
WienerIterations = Annotated[
    int,
    typer.Option(
        "--wiener",
        metavar="N",
        parser=number("--wiener", int, 0),
        help="Iterations of the multichannel Wiener filter.",
        rich_help_panel=HOW,
    ),
]
FramingName = Annotated[
    str,
    typer.Option(
        "--framing",
        metavar="|".join(FRAMINGS),
        parser=one_of("framing", FRAMINGS),
        help="original: the whole song at once, as in the papers. Memory grows with it.",
        rich_help_panel=HOW,
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N",
        parser=number("--jobs", int, 1),
        help="Songs at the same time.",
        rich_help_panel=RUN,
    ),
]
Registries = Annotated[
    list[Path] | None,
    typer.Option(
        "--registry",
        metavar="FILE",
        help="A registry file that adds models or replaces them; may be repeated.",
        rich_help_panel=RUN,
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
