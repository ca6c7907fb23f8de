"""What a file holds, asked of ffmpeg without decoding it.

There is no ffprobe here: the streams are read from what `ffmpeg -i` says, the tags from the same
run's ffmetadata output, in which every character is escaped.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from stemsplit.audio.ffmpeg import (
    LOCAL_ONLY,
    VARIABLE,
    find_ffmpeg,
    name_file,
    parse_complaint,
    quiet_environment,
)
from stemsplit.audio.metadata import parse_metadata
from stemsplit.audio.readable import check_readable, refuse_playlist
from stemsplit.audio.wav import read_announced_s
from stemsplit.errors import DecodeError, FFmpegMissingError

_PATIENCE_S: Final = 120.0
_PLAYLIST_CONTAINERS: Final = frozenset(
    ("hls", "applehttp", "concat", "concatf", "dash", "imf", "sdp", "rtsp", "rtp")
)
_IMAGE_CONTAINERS: Final = frozenset(("image2", "gif", "apng", "ico", "webp", "webp_anim", "svg"))
_COVER_CODECS: Final = frozenset(("mjpeg", "png"))

_INPUT: Final = re.compile(r"Input #0, (.+?), from 'file:")
_DURATION: Final = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?),")
_STREAM: Final = re.compile(
    r"^\s*Stream #0:(?P<index>\d+)(?:\[0x[0-9a-fA-F]+\])?(?:\((?P<language>[^()]*)\))?: "
    r"(?P<kind>Audio|Video|Subtitle|Data|Attachment)(?:: (?P<rest>.*))?$"
)
_CHANNELS: Final = re.compile(r"^(\d+) channels")
_DOTTED: Final = re.compile(r"^\d+(?:\.\d+)+")
_AMBISONIC: Final = re.compile(r"^ambisonic (\d+)(?:\+(.*))?$")
_LAYOUTS: Final = {
    "mono": 1,
    "stereo": 2,
    "downmix": 2,
    "binaural": 2,
    "quad": 4,
    "quad(side)": 4,
    "hexagonal": 6,
    "octagonal": 8,
    "cube": 8,
    "hexadecagonal": 16,
}


@dataclass(frozen=True)
class StreamInfo:
    """One audio stream, as the container announces it.

    Attributes:
        index: Among the file's audio streams, from 0.
        codec: ffmpeg's name of it: "mp3", "pcm_s16le", "aac".
        sample_rate: Hz; 0 where ffmpeg could not tell.
        channels: How many; 0 where ffmpeg could not tell.
        layout: ffmpeg's name of the loudspeakers, such as "stereo" or "5.1(side)".
        language: As tagged; None where there is none.
        title: Of the stream, as in the tracks of a video; None where there is none.
        default: Whether players start with it.
    """

    index: int
    codec: str
    sample_rate: int
    channels: int
    layout: str | None = None
    language: str | None = None
    title: str | None = None
    default: bool = False


@dataclass(frozen=True)
class AudioInfo:
    """A file with sound in it.

    Attributes:
        path: As given.
        container: ffmpeg's name of the format: "wav", "mov,mp4,m4a,3gp,3g2,mj2".
        duration_s: Announced length; None where the container does not say, or says less than 5 ms.
        streams: The audio streams, in order; at least one.
        tags: Of the song, keys in lower case and by ffmpeg's names: title, artist, album, date ...
        has_cover: Whether a picture is attached.
        cover_stream: Index among all streams of an attached JPEG or PNG that can be copied.
        has_video: Whether there is a moving picture.
        is_estimated: Whether `duration_s` was guessed from the bit rate.
    """

    path: Path
    container: str
    duration_s: float | None
    streams: tuple[StreamInfo, ...]
    tags: Mapping[str, str]
    has_cover: bool = False
    cover_stream: int | None = None
    has_video: bool = False
    is_estimated: bool = False


def probe(path: Path) -> AudioInfo:
    """Say what a file holds, without decoding it.

    The answer is remembered until the file changes.

    Args:
        path: Any file that ffmpeg can read, sound or video.

    Raises:
        DecodeError: No such file, a folder, no permission, nothing in it, or nothing to hear in it.
        FFmpegMissingError: There is no ffmpeg.
    """
    path = Path(path)
    status = check_readable(path)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _probe(path, identity, find_ffmpeg())


@functools.lru_cache(maxsize=128)
def _probe(path: Path, identity: tuple[int, ...], program: Path) -> AudioInfo:
    described, metadata = _ask(path, program)
    seen = _parse_description(described, path)
    if seen.container is None:
        _refuse_unreadable(path, described)
    if _PLAYLIST_CONTAINERS.intersection(seen.container.split(",")):
        refuse_playlist(path)
    if not seen.audio:
        _refuse_silent(path, seen)
    global_tags, stream_tags = parse_metadata(metadata)
    # The last streams may have no section; they have no tags.
    every_tags = (stream_tags + [{}] * len(seen.audio))[: len(seen.audio)]
    streams = tuple(
        _parse_stream(index, match, tags)
        for index, (match, tags) in enumerate(zip(seen.audio, every_tags, strict=True))
    )
    if not any(stream.sample_rate for stream in streams):
        _refuse_unreadable(path, described)
    tags = dict(global_tags)
    if "ogg" in seen.container and stream_tags:  # Ogg keeps the song's tags in its stream.
        tags = {**stream_tags[0], **tags}
    cut_s = _find_cut(path, seen)
    return AudioInfo(
        path=path,
        container=seen.container,
        # ffmpeg tells hundredths of a second: "0.00" may be a few samples, which decoding tells.
        duration_s=cut_s or seen.duration_s or None,
        streams=streams,
        tags=tags,
        has_cover=bool(seen.covers),
        cover_stream=next((index for index, usable in seen.covers if usable), None),
        has_video=bool(seen.videos),
        is_estimated=seen.is_estimated and cut_s is None,
    )


def _ask(path: Path, program: Path) -> tuple[str, str]:
    """Return ffmpeg's description of a file, and its metadata."""
    command = [
        *(str(program), "-nostdin", "-nostats", "-v", "level+info"),
        *(*LOCAL_ONLY, "-i", name_file(path)),
        *("-map", "0:a?", "-c", "copy", "-t", "0"),
        *("-fflags", "+bitexact", "-flags", "+bitexact", "-f", "ffmetadata", "pipe:1"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            env=quiet_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DecodeError(
            f"ffmpeg found nothing to decode in {str(path)!r} within {_PATIENCE_S:.0f} s",
            help="check that the disk answers, and that the file is not damaged.",
        ) from error
    except OSError as error:
        raise FFmpegMissingError(
            f"{str(program)!r} does not start: {error.strerror}",
            help=f"install ffmpeg, or set {VARIABLE} to one that runs.",
        ) from error
    return done.stderr.decode("utf-8", "replace"), done.stdout.decode("utf-8", "replace")


@dataclass(frozen=True)
class _Description:
    container: str | None
    duration_s: float | None
    is_estimated: bool
    audio: tuple[re.Match[str], ...]
    covers: tuple[tuple[int, bool], ...]
    videos: tuple[str, ...]
    has_subtitles: bool


def _parse_description(text: str, path: Path) -> _Description:
    """Read the lines from "Input #0" to the first that is about the output."""
    _, _, described = text.partition("Input #0, ")
    opening = _INPUT.match("Input #0, " + described)
    # The name may hold anything, even lines that look like these: it is passed over by its length.
    if opening is not None:
        name = str(path).encode("utf-8", "replace").decode("utf-8", "replace")
        rest = ("Input #0, " + described)[opening.end() :]
        described = rest.removeprefix(name)
    duration_s: float | None = None
    streams: dict[int, re.Match[str]] = {}
    for line in described.splitlines():
        line = line.removeprefix("[info] ")
        if line.startswith(("Stream mapping:", "Output #")):
            break
        if (length := _DURATION.match(line)) and duration_s is None:
            duration_s = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3])
        elif found := _STREAM.match(line):
            streams.setdefault(int(found["index"]), found)
    pictures = [match for match in streams.values() if match["kind"] == "Video"]
    covers = [match for match in pictures if "(attached pic)" in match["rest"]]
    return _Description(
        container=opening[1] if opening else None,
        duration_s=duration_s,
        is_estimated="Estimating duration from bitrate" in text,
        audio=tuple(match for match in streams.values() if match["kind"] == "Audio"),
        covers=tuple((int(match["index"]), _is_usable_cover(match["rest"])) for match in covers),
        videos=tuple(match["rest"] for match in pictures if match not in covers),
        has_subtitles=any(match["kind"] == "Subtitle" for match in streams.values()),
    )


def _is_usable_cover(rest: str) -> bool:
    return rest.split()[0].rstrip(",") in _COVER_CODECS and bool(re.search(r", \d+x\d+", rest))


def _parse_stream(index: int, match: re.Match[str], tags: Mapping[str, str]) -> StreamInfo:
    parts = (match["rest"] or "").split(", ")
    rate_at = next((at for at, part in enumerate(parts) if part.endswith(" Hz")), None)
    layout = parts[rate_at + 1] if rate_at is not None and rate_at + 1 < len(parts) else None
    language = tags.get("language") or match["language"]
    return StreamInfo(
        index=index,
        codec=parts[0].split()[0] if parts[0] else "unknown",
        sample_rate=int(parts[rate_at].split()[0]) if rate_at is not None else 0,
        channels=count_channels(layout or ""),
        layout=layout,
        language=None if language in (None, "und") else language,
        title=tags.get("title"),
        default="(default)" in match["rest"],
    )


def count_channels(layout: str) -> int:
    """Return how many loudspeakers ffmpeg's name of a layout stands for; 0 for an unknown one."""
    if counted := _CHANNELS.match(layout):
        return int(counted[1])
    if dotted := _DOTTED.match(layout):
        return sum(int(number) for number in dotted[0].split("."))
    if ambisonic := _AMBISONIC.match(layout):
        return (int(ambisonic[1]) + 1) ** 2 + count_channels(ambisonic[2] or "")
    return _LAYOUTS.get(layout, 0)


def _find_cut(path: Path, seen: _Description) -> float | None:
    """Return the length that a cut WAV had before it was cut, of which ffmpeg says nothing."""
    announced_s = read_announced_s(path) if seen.container == "wav" else None
    if announced_s is None or announced_s <= (seen.duration_s or 0.0) + 0.01:
        return None
    return announced_s


def _refuse_unreadable(path: Path, described: str) -> NoReturn:
    complaints = [parse_complaint(line) for line in described.splitlines()]
    # The last ones only say that the opening failed; the first say why.
    reasons = [complaint for complaint in complaints if complaint and "input file" not in complaint]
    quoted = "; ".join(list(dict.fromkeys(reasons))[:2]) or "no sample rate found"
    raise DecodeError(
        f"{str(path)!r} cannot be read as audio; ffmpeg says: {quoted}",
        help="if other programs play it, convert it there to wav or flac; else get it again.",
    )


def _refuse_silent(path: Path, seen: _Description) -> NoReturn:
    names = set((seen.container or "").split(","))
    if seen.videos:
        is_image = names & _IMAGE_CONTAINERS or (seen.container or "").endswith("_pipe")
        kind = "an image" if is_image else "a video without sound"
    elif seen.covers:
        kind = "a picture"
    elif seen.has_subtitles:
        kind = "a file of subtitles"
    else:
        kind = f"a file of the kind {seen.container!r} without a sound track"
    raise DecodeError(f"{str(path)!r} has no audio: it is {kind}", help="give a file with sound.")
