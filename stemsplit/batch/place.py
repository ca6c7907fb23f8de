"""Where one song's stems are in object storage: what is there, and how new ones come whole.

    stemsplit.json.part      the claim: the manifest to come; says whose the next files are
    stemsplit.json           an old one goes before the first stem that it speaks of is written over
    vocals.wav ...
    stemsplit.json           the proof; then the claim goes

Wherever that ends, a manifest that is there speaks of whole files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stemsplit.batch.storage import ObjectStorage, join
from stemsplit.errors import OutputError
from stemsplit.separation.manifest import (
    PARTIAL_SUFFIX,
    Manifest,
    SourceRecord,
    is_about,
    parse_manifest,
    relative_name,
)
from stemsplit.separation.naming import Job

if TYPE_CHECKING:
    from stemsplit.separation.manifest import Recipe


class Place:
    """Where one song's stems are in object storage.

    Attributes:
        manifest: The proof that is there; None where there is none, or a damaged one.
    """

    def __init__(self, storage: ObjectStorage, dest: str, job: Job) -> None:
        """Look at what is there: a listing, and the manifest if there is one."""
        self._storage = storage
        self._job = job
        inside = relative_name(job.manifest.parent, job.out_dir)
        self._folder = dest if inside == "." else join(dest, inside)
        self._proof = join(self._folder, job.manifest.name)
        self._claim = self._proof + PARTIAL_SUFFIX
        self._files = {stem: self._name(path) for stem, path in job.outputs.items()}
        self._mp4 = self._name(job.stem_mp4) if job.stem_mp4 else None
        self._sizes = self._list()
        self.manifest = self._read(self._proof)

    def proves_done(self, source: SourceRecord, recipe: Recipe) -> bool:
        """Say whether these very stems are there, whole."""
        manifest = self.manifest
        return (
            manifest is not None
            and is_about(manifest, source, recipe, self._files, self._mp4)
            and all(self._sizes.get(record.file) == record.bytes for record in manifest.files)
        )

    def refuse_foreign(self) -> None:
        """Check that nothing would be lost: what is in the way is our own work.

        Raises:
            OutputError: There is a file that no manifest and no claim lists.
        """
        if self.manifest is None and self._job.manifest.name in self._sizes:
            return  # A damaged proof: the files around it are ours.
        owned = self._owned()
        for name in (*self._files.values(), *([self._mp4] if self._mp4 else [])):
            if name in self._sizes and name not in owned:
                raise OutputError(
                    f"{join(self._folder, name)!r} is there already, and no manifest says that "
                    "stemsplit wrote it",
                    help="move it away, choose another place with -o, or give --overwrite.",
                )

    def deliver(self, made: Manifest, check: Callable[[], None]) -> Manifest:
        """Upload everything, in the order of this module's docstring.

        Args:
            made: Of the files in the temporary folder.
            check: Raises where the batch has been stopped; called before every stem.

        Returns:
            The manifest as it is there now.
        """
        now = {record.file for record in made.files}
        earlier = {name for name in self._owned() - now if name in self._sizes}
        manifest = replace(made, earlier=tuple(sorted(earlier)))
        text = manifest.to_json().encode("utf-8")
        self._storage.write(self._claim, text)
        if self._job.manifest.name in self._sizes:
            self._storage.remove(self._proof)
        for record in manifest.files:
            check()
            path = self._job.manifest.parent / record.file
            self._storage.upload(path, join(self._folder, record.file))
            path.unlink()
        self._storage.write(self._proof, text)
        self._storage.remove(self._claim)
        return manifest

    def drop_claim(self) -> None:
        """Remove a claim that its run had no time to remove."""
        if self._is_claimed:
            self._storage.remove(self._claim)

    @property
    def _is_claimed(self) -> bool:
        return self._job.manifest.name + PARTIAL_SUFFIX in self._sizes

    def _owned(self) -> set[str]:
        """Name all files that a manifest or a claim calls ours."""
        claim = self._read(self._claim) if self._is_claimed else None
        return {name for one in (self.manifest, claim) if one for name in one.owned}

    def _list(self) -> dict[str, int]:
        """Return the sizes of all files around the manifest, by name relative to its folder."""
        wanted = [*self._files.values(), *([self._mp4] if self._mp4 else [])]
        sizes: dict[str, int] = {}
        for folder in {"", *(posixpath.dirname(name) for name in wanted)}:
            place = join(self._folder, folder) if folder else self._folder
            for name, size in self._storage.sizes(place).items():
                sizes[posixpath.join(folder, name)] = size
        return sizes

    def _read(self, name: str) -> Manifest | None:
        if posixpath.basename(name) not in self._sizes:
            return None
        return parse_manifest(self._storage.read(name) or b"")

    def _name(self, path: Path) -> str:
        return relative_name(path, self._job.manifest.parent)
