"""Native Instruments' .stem.mp4: the mixture and its stems as tracks of one file.

By NI's Stem file specification, track 0 is the mixture, which any player plays; the stems follow in
tracks that are switched off. Their names, their colours and the DJ software's mastering effects are
JSON in an atom of type `stem` inside `moov/udta`.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, Literal

from stemsplit.audio.codec import choose_rate
from stemsplit.audio.ffmpeg import LOCAL_ONLY, Process, name_file
from stemsplit.audio.formats import OutputFormat
from stemsplit.audio.metadata import build_metadata, keep_tags
from stemsplit.audio.part_file import PartFile, explain_os_error
from stemsplit.audio.probe import probe
from stemsplit.audio.sinks import explain_failure
from stemsplit.errors import EncodeError, UnknownNameError, UsageError

# Told apart by the colour-blind, too (the palette of Okabe and Ito).
_COLOURS: Final = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#E69F00", "#0072B2", "#F0E442")

# What the specification asks for; both effects are off, so the stems sound as they are.
_MASTERING_DSP: Final = {
    "compressor": {
        "enabled": False,
        "ratio": 3,
        "output_gain": 0.5,
        "release": 0.3,
        "attack": 0.003,
        "input_gain": 0.5,
        "threshold": 0,
        "hp_cutoff": 300,
        "dry_wet": 50,
    },
    "limiter": {"enabled": False, "release": 0.05, "threshold": 0, "ceiling": -0.35},
}

_MIN_KBPS: Final = 16
_MAX_KBPS: Final = 512
_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


def write_stem_mp4(
    path: Path,
    mixture_path: Path,
    stem_paths: Sequence[tuple[str, Path]],
    *,
    tags: Mapping[str, str] = _NO_TAGS,
    codec: Literal["aac", "alac"] = "aac",
    bit_rate_kbps: int = 256,
) -> None:
    """Write one .stem.mp4 from finished files; every track becomes stereo.

    DJ programs ask for exactly four stems (drums, bass, other, vocals in that order); stempeg reads
    any number. The file appears under its name only when it is complete.

    Args:
        path: Where it belongs; one that is there is replaced.
        mixture_path: What is heard where stems are not understood.
        stem_paths: Name and file of each stem, in order.
        tags: By ffmpeg's names: title, artist, album ...
        codec: "aac", or lossless "alac".
        bit_rate_kbps: Of each track, for AAC.

    Raises:
        UsageError: No stems, or a bit rate that cannot be.
        UnknownNameError: A codec that is neither of the two.
        DecodeError: One of the files cannot be read.
        EncodeError: ffmpeg gave up.
        OutputError: The place cannot be written to.
        DiskFullError: The disk is full.
    """
    if not stem_paths:
        raise UsageError("a .stem.mp4 needs stems, and there are none", help="give at least one.")
    if codec not in ("aac", "alac"):
        raise UnknownNameError("codec of .stem.mp4", codec, ("aac", "alac"))
    if not _MIN_KBPS <= bit_rate_kbps <= _MAX_KBPS:
        raise UsageError(
            f"AAC cannot have {bit_rate_kbps} kbit/s", help=f"give {_MIN_KBPS} to {_MAX_KBPS}."
        )
    path = Path(path)
    inputs = [Path(mixture_path), *(Path(stem_path) for _, stem_path in stem_paths)]
    infos = [probe(item) for item in inputs]
    sample_rate = infos[0].streams[0].sample_rate
    if codec == "aac":
        encoder = ["-c:a", "aac", "-b:a", f"{bit_rate_kbps}k"]
        sample_rate = choose_rate(OutputFormat("m4a"), sample_rate)
    else:
        encoder = ["-c:a", "alac"]
    names = [name for name, _ in stem_paths]
    place = PartFile(path)
    try:
        settings = [*encoder, "-ac", "2", "-ar", str(sample_rate)]
        _encode(place, inputs, names, settings, keep_tags(tags))
        _add_atom(place.part, build_description(names))
    except BaseException:
        place.discard()
        raise
    place.commit()


def _encode(
    place: PartFile,
    inputs: Sequence[Path],
    names: Sequence[str],
    settings: Sequence[str],
    tags: Mapping[str, str],
) -> None:
    command = ["-y"]
    for item in inputs:
        command += [*LOCAL_ONLY, "-i", name_file(item)]
    command += ["-f", "ffmetadata", "-i", "pipe:0"]  # Tags may be longer than a command line.
    for track, name in enumerate(["Mixture", *names]):
        command += ["-map", f"{track}:a:0", f"-disposition:a:{track}", "0" if track else "default"]
        for key in ("title", "handler_name"):
            command += [f"-metadata:s:a:{track}", f"{key}={name}"]
    command += ["-map_metadata", f"{len(inputs)}:g", "-map_chapters", "-1"]
    bitexact = ("-fflags", "+bitexact", "-flags:a", "+bitexact")
    command += [*settings, *bitexact, "-f", "ipod", name_file(place.part)]
    process = Process(command, feed=True)
    try:
        with contextlib.suppress(BrokenPipeError):
            process.send(memoryview(build_metadata(tags).encode()))
        process.close_pipes()
        status = process.wait()
    finally:
        process.end()
        process.close_pipes()
    if status != 0:
        raise explain_failure(process, status, repr(str(place.path)), "stem.mp4")


def build_description(names: Sequence[str]) -> bytes:
    """Return the JSON that names and colours the stems."""
    stems = [
        {"name": name, "color": _COLOURS[index % len(_COLOURS)]} for index, name in enumerate(names)
    ]
    document = {"version": 1, "mastering_dsp": _MASTERING_DSP, "stems": stems}
    return json.dumps(document, separators=(",", ":")).encode()


def _add_atom(path: Path, description: bytes) -> None:
    """Put the `stem` atom into `moov/udta`. `moov` stands last, so nothing else moves."""
    try:
        with path.open("rb+") as file:
            start = _find_last_moov(file, path)
            file.seek(start + 8)
            children = list(split_atoms(file.read()))
            kept = [(kind, body) for kind, body in children if kind != b"udta"]
            user_data = b"".join(body for kind, body in children if kind == b"udta")
            user_data += build_atom(b"stem", description)
            body = b"".join(build_atom(*child) for child in [*kept, (b"udta", user_data)])
            file.seek(start)
            file.write(build_atom(b"moov", body))
    except OSError as error:
        raise explain_os_error(error, path) from error


def _find_last_moov(file: BinaryIO, path: Path) -> int:
    """Return where `moov` begins, the last of the atoms."""
    size_bytes = file.seek(0, 2)
    start = 0
    while start + 16 <= size_bytes:
        file.seek(start)
        size, kind, long_size = struct.unpack(">I4sQ", file.read(16))
        size = long_size if size == 1 else size
        if kind == b"moov" and start + size == size_bytes:
            return start
        if size < 8:
            break
        start += size
    raise EncodeError(
        f"{str(path)!r}: ffmpeg wrote an MP4 whose index is not at its end",
        help="use another ffmpeg: unset STEMSPLIT_FFMPEG, or update it.",
    )


def split_atoms(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the body of each atom in a sequence of them, sizes below 4 GiB."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        if size < 8:
            return
        yield kind, data[start + 8 : start + size]
        start += size


def build_atom(kind: bytes, body: bytes) -> bytes:
    """Return an atom: size, type, body."""
    return struct.pack(">I4s", 8 + len(body), kind) + body
