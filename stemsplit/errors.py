"""Every error that stemsplit raises on purpose, in one tree.

    StemsplitError                   anything below; has .message and .help
    ├── UsageError                   the call itself is wrong; the command exits with 2
    │   ├── UnknownNameError         a model, stem, format ... that does not exist
    │   └── RegistryError            a registry file that cannot be read as one
    ├── AudioError
    │   ├── FFmpegMissingError       no ffmpeg on PATH, none installed beside Python
    │   ├── DecodeError              a file that cannot be read as audio
    │   │   └── EmptyAudioError      audio with no samples in it
    │   └── EncodeError              ffmpeg refused what it was to write
    ├── OutputError                  a place that cannot be written to
    │   ├── DiskFullError
    │   └── InUseError               another process is writing there
    ├── StorageError                 object storage that refuses, or does not answer
    ├── WeightsError
    │   ├── DownloadError
    │   │   ├── OfflineError         a download is needed and downloads are switched off
    │   │   ├── HttpStatusError      the server answered with 4xx or 5xx
    │   │   ├── NetworkError         no connection, no name, a stall, a redirect loop
    │   │   ├── TruncatedError       fewer (or more) bytes than the server announced
    │   │   └── HashMismatchError    all the bytes, and not the published ones
    │   ├── ArchiveError             a zip or tar that is damaged or leaves its folder
    │   ├── UnsafeWeightsError       a pickle that asks for a global not on the allow-list
    │   └── CheckpointError          missing, unexpected or wrongly shaped tensors
    ├── DatasetError                 no tracks, a stem that cannot be read, a split that is empty
    ├── TrainingError                the loss or the weights are no numbers any more
    ├── DeviceError                  a device that is not there, or is out of memory
    └── CancelledError               the person stopped it

Two lines reach the person: what is wrong, with the value seen, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArchiveError",
    "AudioError",
    "CancelledError",
    "CheckpointError",
    "DatasetError",
    "DecodeError",
    "DeviceError",
    "DiskFullError",
    "DownloadError",
    "EmptyAudioError",
    "EncodeError",
    "FFmpegMissingError",
    "HashMismatchError",
    "HttpStatusError",
    "InUseError",
    "NetworkError",
    "OfflineError",
    "OutputError",
    "RegistryError",
    "StemsplitError",
    "StorageError",
    "TrainingError",
    "TruncatedError",
    "UnknownNameError",
    "UnsafeWeightsError",
    "UsageError",
    "WeightsError",
    "nearest",
]


class StemsplitError(Exception):
    """The root: what is wrong (`message`) and what to do about it (`help`).

    Attributes:
        message: One sentence that names the value seen.
        help: One sentence that says what to do.
    """

    def __init__(self, message: str, *, help: str) -> None:
        super().__init__(message, help)
        self.message = message
        self.help = help

    def __str__(self) -> str:
        return f"{self.message}\nhelp: {self.help}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.help)


def _rebuild(kind: type[StemsplitError], message: str, help: str) -> StemsplitError:
    error = kind.__new__(kind)
    StemsplitError.__init__(error, message, help=help)
    return error


class UsageError(StemsplitError):
    """The call itself is wrong: an option, a combination, a value."""


class UnknownNameError(UsageError):
    """A name that is not among the known ones; `help` lists the nearest three."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, more: str = "") -> None:
        """Say which names are near.

        Args:
            kind: What is named, in the singular: "model", "stem", "format".
            name: The name that was given.
            known: All names that exist.
            more: A sentence to end the help with.
        """
        known = sorted(known)
        near = nearest(name, known)
        listed = ", ".join(near) if near else ", ".join(known) or "none"
        lead = "did you mean" if near else f"known {kind}s are"
        tail = "?" if near else "."
        help = f"{lead} {listed}{tail}" + (f" {more}" if more else "")
        super().__init__(f"there is no {kind} {name!r}", help=help)


class RegistryError(UsageError):
    """A registry file that is not one: bad TOML, an unknown key, a wrong type."""


class AudioError(StemsplitError):
    """Anything about reading or writing sound."""


class FFmpegMissingError(AudioError):
    """There is no ffmpeg on PATH and none that came with imageio-ffmpeg."""


class DecodeError(AudioError):
    """The file cannot be read as audio; ffmpeg's own last words are in the message."""


class EmptyAudioError(DecodeError):
    """There is audio, and it holds no samples."""


class EncodeError(AudioError):
    """ffmpeg did not accept what it was asked to write."""


class OutputError(StemsplitError):
    """The place for the output cannot be used."""


class DiskFullError(OutputError):
    """No space is left where the output goes."""


class InUseError(OutputError):
    """Another process is writing in the same place just now."""


class StorageError(StemsplitError):
    """Object storage did not do what it was asked to; another time it may."""


class WeightsError(StemsplitError):
    """Anything about weights: finding, fetching, reading, filling a network."""


class DownloadError(WeightsError):
    """The weights could not be fetched; the cache is as it was before."""


class OfflineError(DownloadError):
    """The weights are not in the cache and downloads are switched off."""


class HttpStatusError(DownloadError):
    """The server answered with an error status."""


class NetworkError(DownloadError):
    """No connection, no such host, a stall or a redirect loop."""


class TruncatedError(DownloadError):
    """The number of bytes is not the one announced."""


class HashMismatchError(DownloadError):
    """Every byte arrived, and they are not the published ones."""


class ArchiveError(WeightsError):
    """A zip or tar file that is damaged, lacks its member or leaves its folder."""


class UnsafeWeightsError(WeightsError):
    """A pickle that asks for a global outside the allow-list; nothing was executed."""


class CheckpointError(WeightsError):
    """Tensors that are missing, unexpected or of another shape than the network's."""


class DatasetError(StemsplitError):
    """Songs with their true stems that are not there, or not as they should be."""


class TrainingError(StemsplitError):
    """A training cannot go on: no number for a loss, or a process of it is gone."""


class DeviceError(StemsplitError):
    """A device that this machine lacks, or that ran out of memory."""


class CancelledError(StemsplitError):
    """The person stopped the work."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the known names, the most similar to `name` first.

    Args:
        name: What was typed.
        known: The names to choose from.
        count: How many to return at the most.

    Returns:
        Names whose similarity is at least 0.4, best first; empty when none is near.
    """
    folded = {item.casefold(): item for item in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=0.4)
    return [folded[item] for item in found]
