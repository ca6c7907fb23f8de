"""The formats that stems are written in, and what each of them can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stemsplit.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class OutputFormat:
    """A way to write sound; made by `parse_format`.

    Attributes:
        name: "wav", "flac", "mp3", "ogg" (Vorbis), "opus" or "m4a" (AAC).
        bits: Of a sample in wav and flac: 16 or 24 for integers, 32 for floats; None in lossy
            formats.
        bit_rate_kbps: Of lossy formats, for all channels together; None in lossless ones. Constant
            for mp3, an average for opus and m4a, and for ogg the quality that has this rate with
            music.
    """

    name: str
    bits: int | None = None
    bit_rate_kbps: int | None = None

    @property
    def suffix(self) -> str:
        """How file names end, with the dot."""
        return f".{self.name}"

    @property
    def is_lossless(self) -> bool:
        """Whether decoding gives the samples that were written."""
        return self.bits is not None


@dataclass(frozen=True)
class _Limits:
    """What a format can be asked for; defaults first."""

    bits: tuple[int, ...] = ()
    kbps: int = 0
    min_kbps: int = 0
    max_kbps: int = 0


_FORMATS: Final = {
    "wav": _Limits(bits=(24, 16, 32)),
    "flac": _Limits(bits=(24, 16)),
    "mp3": _Limits(kbps=320, min_kbps=8, max_kbps=320),
    "ogg": _Limits(kbps=256, min_kbps=32, max_kbps=500),
    "opus": _Limits(kbps=192, min_kbps=6, max_kbps=512),
    "m4a": _Limits(kbps=256, min_kbps=16, max_kbps=512),
}
FORMATS: Final = tuple(_FORMATS)


def parse_format(
    name: str, bits: int | None = None, bit_rate_kbps: int | None = None
) -> OutputFormat:
    """Return the format that a person asked for.

    Args:
        name: One of `FORMATS`, in any case, with or without a dot.
        bits: 16, 24 or 32 for wav, 16 or 24 for flac; 24 when None.
        bit_rate_kbps: For lossy formats; a high one when None (mp3 320, ogg 256, opus 192, m4a
            256).

    Raises:
        UnknownNameError: No such format.
        UsageError: A number that the format has no use for.
    """
    key = name.strip().lower().removeprefix(".")
    limits = _FORMATS.get(key)
    if limits is None:
        raise UnknownNameError("format", name, FORMATS)
    if limits.bits:
        if bit_rate_kbps is not None:
            raise UsageError(
                f"{key} has no bit rate to set, so {bit_rate_kbps} kbit/s cannot be",
                help=f"leave the bit rate out, or choose one of {', '.join(_list_lossy())}.",
            )
        if bits is not None and bits not in limits.bits:
            known = " or ".join(str(number) for number in sorted(limits.bits))
            more = "; for 32-bit floats choose wav" if key == "flac" and bits == 32 else ""
            raise UsageError(
                f"{key} cannot have {bits} bits per sample", help=f"give {known}{more}."
            )
        return OutputFormat(key, bits=bits or limits.bits[0])
    if bits is not None:
        raise UsageError(
            f"{key} is a lossy format, it has no {bits} bits per sample",
            help="leave the bits out, or choose wav or flac.",
        )
    kbps = limits.kbps if bit_rate_kbps is None else bit_rate_kbps
    if not limits.min_kbps <= kbps <= limits.max_kbps:
        raise UsageError(
            f"{key} cannot have {kbps} kbit/s",
            help=f"give {limits.min_kbps} to {limits.max_kbps}.",
        )
    return OutputFormat(key, bit_rate_kbps=kbps)


def _list_lossy() -> list[str]:
    return [name for name, limits in _FORMATS.items() if not limits.bits]
