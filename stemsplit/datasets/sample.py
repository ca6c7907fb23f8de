"""The sample of MUSDB18 that anyone may fetch: 7 seconds of each track, as .stem.mp4."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Final

from stemsplit.errors import ArchiveError, DatasetError, DownloadError, OfflineError
from stemsplit.weights.archives import extract_member
from stemsplit.weights.digests import Progress
from stemsplit.weights.disk import make_folder, translate_errors
from stemsplit.weights.download import download_file
from stemsplit.weights.environment import find_cache, is_offline
from stemsplit.weights.patience import Patience

# Published by MUSDB18's authors beside their package musdb, which fetches the same file.
SAMPLE_URL: Final = (
    "https://github.com/sigsep/sigsep-mus-db/releases/download/v0.4.0/MUSDB18-7-STEMS.zip"
)
_NAME: Final = "musdb18-7s"
_MEMBER: Final = re.compile(r"(?:[^/]+/)?(?P<split>train|test)/(?P<name>[^/.][^/]*\.stem\.mp4)")
_HELP: Final = "or name a data set that you have: --root FOLDER."


def fetch_sample(
    *,
    offline: bool | None = None,
    url: str = SAMPLE_URL,
    patience: Patience | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Return the folder of the sample, which is downloaded once into the cache.

    Args:
        offline: Download nothing; None: as $STEMSPLIT_OFFLINE says.
        url: Where it is.
        patience: How long to bear with the server.
        on_progress: Told how far the download is.

    Raises:
        OfflineError: It is not here, and downloads are switched off.
        DownloadError: It cannot be fetched.
        ArchiveError: What was fetched is damaged.
        DatasetError: What was fetched holds no tracks.
        OutputError: The cache cannot be written to.
    """
    from filelock import FileLock

    folder = find_cache() / "datasets"
    root = folder / _NAME
    if root.is_dir():
        return root
    if is_offline() if offline is None else offline:
        raise OfflineError(
            "MUSDB18's 7-second sample is not on this machine, and downloads are switched off",
            help=f"leave out --offline and unset STEMSPLIT_OFFLINE once, {_HELP}",
        )
    make_folder(folder)
    with translate_errors(folder), FileLock(folder / f".{_NAME}.lock"):
        # Another process may have fetched it meanwhile.
        if not root.is_dir():
            archive = folder / f"{_NAME}.zip"
            try:
                download_file(url, archive, patience=patience, on_progress=on_progress)
            except DownloadError as error:
                message = f"MUSDB18's 7-second sample: {error.message}"
                raise type(error)(message, help=f"{error.help.rstrip('.')}; {_HELP}") from error
            try:
                _unpack(archive, root, url)
            finally:
                archive.unlink(missing_ok=True)
    return root


def _unpack(archive: Path, root: Path, url: str) -> None:
    """Take the tracks out of the archive, all of them or none."""
    part = root.with_name(f"{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{url} is no zip file: {error}", help="try again later.") from error
    found = [match for name in names if (match := _MEMBER.fullmatch(name))]
    if not found:
        raise DatasetError(
            f"{url} holds no track, only {', '.join(names[:3]) or 'nothing'}",
            help=f"download MUSDB18 by hand, {_HELP}",
        )
    try:
        for match in found:
            target = part / match["split"] / match["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            extract_member(archive, match[0], target, url)
        os.replace(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
