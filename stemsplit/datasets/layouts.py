"""The forms a data set comes in, all opened by one function.

MUSDB18             {train,test}/NAME.stem.mp4, or such files in one folder
MUSDB18-HQ, ...     {train,valid,test}/NAME/{mixture,drums,bass,other,vocals}.wav
one's own           [{train,valid,test}/]NAME/STEM.wav or .flac

Nothing here opens a sound file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsplit.datasets.description import Description, fold, normal, read_description
from stemsplit.datasets.excerpts import SEEKABLE
from stemsplit.datasets.splits import AS_DESCRIBED, SPLITS, Validation, assign_splits
from stemsplit.datasets.track import AudioFile, Dataset, Split, Track
from stemsplit.errors import DatasetError, UnknownNameError, UsageError

MIXTURE: Final = "mixture"
STEM_MP4: Final = ".stem.mp4"
MUSDB18_STREAMS: Final = (MIXTURE, "drums", "bass", "other", "vocals")
_MUSDB18_STEMS: Final = MUSDB18_STREAMS[1:]

# Sums of other stems, which decoded copies of MUSDB18 have beside them.
_SUMS: Final = ("accompaniment", "instrumental", "linear_mixture")
_OTHER_SOUND: Final = (
    *(".mp3", ".m4a", ".mp4", ".aac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff", ".aifc"),
    *(".w64", ".caf", ".ape", ".wv", ".mka", ".ac3"),
)
_SOUND: Final = SEEKABLE + _OTHER_SOUND
_NO_STEM: Final = "name the stems that you want (--stems, or stems = [...] in dataset.toml)."


@dataclass(frozen=True)
class _Song:
    """A track as it was found.

    Attributes:
        name: Its folder's or file's, without the ending.
        place: The folder it is in, or what the description says instead.
        files: By stem, "mixture" among them.
    """

    name: str
    place: Split
    files: Mapping[str, AudioFile]


def open_dataset(
    root: Path,
    *,
    stems: Sequence[str] | None = None,
    valid: Validation = AS_DESCRIBED,
    any_format: bool = False,
) -> Dataset:
    """List the tracks of a folder, whichever form it has.

    Tracks of a folder without `train`, `valid` or `test` are for training. Where stems are not
    named, here or in dataset.toml, they are those that more than half of the tracks have; sums of
    others (accompaniment, no_vocals) count only where they are one of two.

    Args:
        root: The folder.
        stems: Which are wanted, in this order. A track that lacks one is left out.
        valid: Which tracks are for validation.
        any_format: Also take files that have to be decoded as a whole, such as mp3. A .stem.mp4 is
            always taken.

    Raises:
        DatasetError: There is no such folder, no track in it, or one that has to be prepared first.
        UnknownNameError: A stem or a track that it does not have.
    """
    root = Path(root)
    _list(root)  # refuses what is no folder
    problems: list[str] = []
    description = read_description(root)
    songs = _find_songs(root, description, problems)
    if not songs:
        raise _refuse_nothing(root, problems)
    names = _choose_stems(songs, stems, description, problems)
    incomplete: list[str] = []
    songs = [song for song in songs if _is_whole(song, names, incomplete)]
    problems += incomplete
    if not songs:
        raise DatasetError(
            f"no track of {str(root)!r} has all of the stems {', '.join(names)}; {problems[-1]}",
            help=_NO_STEM,
        )
    if not any_format:
        _refuse_unseekable(root, songs, names)
    places = {song.name: song.place for song in songs}
    splits = assign_splits(places, valid, description.valid)
    tracks = [
        Track(
            name=song.name,
            split=splits[song.name],
            stems={stem: song.files[stem] for stem in names},
            mixture=song.files.get(MIXTURE),
        )
        for song in songs
    ]
    tracks.sort(key=lambda track: (SPLITS.index(track.split), track.name))
    return Dataset(root, names, tuple(tracks), tuple(problems), tuple(incomplete))


def _find_songs(root: Path, description: Description, problems: list[str]) -> list[_Song]:
    """Return all tracks, each name once."""
    folders = {place: root / place for place in SPLITS if _is_split(root / place)}
    aliases = {
        alias: (stem, rank)
        for stem, names in description.aliases.items()
        for rank, alias in enumerate((stem, *names))
    }
    found: dict[str, _Song] = {}
    # A song that is in two places is for the test rather than for training.
    for place, folder in reversed((folders or {"train": root}).items()):
        for name, files in _list_songs(folder, aliases, problems):
            if name in found:
                other = found[name].place
                problems.append(f"{name}: is in {place} and in {other} again, left out of {place}")
                continue
            found[name] = _Song(name, place, files)
    if folders:
        problems.extend(_find_strays(root, folders.values()))
    for name in description.test or ():
        if name in found:
            found[name] = _Song(name, "test", found[name].files)
    for name in (*(description.valid or ()), *(description.test or ())):
        if name not in found:
            problems.append(f"{name}: is named in dataset.toml, and there is no such track")
    return list(found.values())


def _is_split(folder: Path) -> bool:
    """Whether a folder holds tracks, and is not one."""
    return folder.is_dir() and not any(
        entry.suffix.lower() in _SOUND and not entry.name.lower().endswith(STEM_MP4)
        for entry in _list(folder)
    )


def _find_strays(root: Path, folders: Iterable[Path]) -> Iterator[str]:
    for entry in _list(root):
        is_song = entry.is_dir() or entry.name.lower().endswith(STEM_MP4)
        if is_song and entry not in folders:
            yield f"{entry.name}: is beside the folders of the splits and in none, left out"


def _list_songs(
    folder: Path, aliases: Mapping[str, tuple[str, int]], problems: list[str]
) -> Iterator[tuple[str, Mapping[str, AudioFile]]]:
    """Yield name and files of what is in one folder; a decoded song before its .stem.mp4."""
    entries = _list(folder)
    for entry in entries:
        if entry.is_dir():
            files = _list_stems(entry, aliases)
            if files:
                yield normal(entry.name), files
            else:
                problems.append(f"{normal(entry.name)}: holds no sound file")
    decoded = {entry.name for entry in entries if entry.is_dir()}
    for entry in entries:
        name = entry.name[: -len(STEM_MP4)]
        if entry.name.lower().endswith(STEM_MP4) and entry.is_file() and name not in decoded:
            streams = enumerate(MUSDB18_STREAMS)
            yield normal(name), {stem: AudioFile(entry, stream) for stream, stem in streams}


def _list_stems(folder: Path, aliases: Mapping[str, tuple[str, int]]) -> dict[str, AudioFile]:
    """Return the sound files of a track by stem; wav before flac before anything else."""
    ranked: list[tuple[str, int, int, Path]] = []
    for entry in _list(folder):
        suffix = entry.suffix.lower()
        if suffix in _SOUND and entry.is_file():
            own = fold(entry.name[: -len(suffix)])
            stem, rank = aliases.get(own, (own, 0))
            ranked.append((stem, rank, _SOUND.index(suffix), entry))
    return {stem: AudioFile(entry) for stem, _, _, entry in sorted(ranked, reverse=True)}


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError as error:
        raise DatasetError(
            f"there is no folder {str(folder)!r}", help="check the spelling and where you are."
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{str(folder)!r} cannot be read as a folder of tracks: {error.strerror or error}",
            help="name the folder that holds the tracks, or 'train' and 'test' with them.",
        ) from error


def _choose_stems(
    songs: Sequence[_Song],
    asked: Sequence[str] | None,
    description: Description,
    problems: list[str],
) -> tuple[str, ...]:
    counts = Counter(stem for song in songs for stem in song.files if stem != MIXTURE)
    named = description.stems if asked is None else tuple(dict.fromkeys(map(fold, asked)))
    if named is not None:
        if not named:
            raise UsageError("no stem was asked for", help=f"choose among {', '.join(counts)}.")
        for stem in named:
            if stem not in counts:
                raise UnknownNameError("stem", stem, counts)
        return named
    most = [stem for stem, count in counts.items() if 2 * count > len(songs)]
    parts = [stem for stem in most if not (stem in _SUMS or stem.startswith("no_"))]
    chosen = parts if len(parts) >= 2 else most
    for stem in sorted(set(counts) - set(most)):
        problems.append(f"{stem}: is in {counts[stem]} of {len(songs)} tracks, no stem therefore")
    if not chosen:
        raise DatasetError(
            f"the {len(songs)} tracks found have no stem in common, only "
            f"{', '.join(sorted(counts)[:6]) or 'mixtures'}",
            help=_NO_STEM,
        )
    known = [stem for stem in _MUSDB18_STEMS if stem in chosen]
    return (*known, *sorted(set(chosen) - set(known)))


def _is_whole(song: _Song, stems: Sequence[str], problems: list[str]) -> bool:
    missing = [stem for stem in stems if stem not in song.files]
    if missing:
        problems.append(f"{song.name}: lacks {', '.join(missing)}, left out")
    return not missing


def _refuse_unseekable(root: Path, songs: Sequence[_Song], stems: Sequence[str]) -> None:
    for song in songs:
        for stem in stems:
            path = song.files[stem].path
            if path.suffix.lower() not in SEEKABLE and not path.name.lower().endswith(STEM_MP4):
                raise DatasetError(
                    f"{str(path)!r} is neither wav nor flac",
                    help=f"decode the data set once: stemsplit prepare --root {root} -o FOLDER",
                )


def _refuse_nothing(root: Path, problems: Sequence[str]) -> DatasetError:
    entries = _list(root)
    folders = sum(entry.is_dir() for entry in entries)
    kinds = Counter(entry.suffix.lower() or "other" for entry in entries if not entry.is_dir())
    held = [f"{folders} folders"] if folders else []
    held += [f"{count} {kind} files" for kind, count in kinds.most_common(4)]
    why = f" ({problems[0]})" if problems else ""
    return DatasetError(
        f"no track in {str(root)!r}, which holds {', '.join(held) or 'nothing'}{why}",
        help="looked for NAME.stem.mp4 and NAME/STEM.wav or .flac, in it and in train, valid, test "
        "below it: name the folder that holds them.",
    )
