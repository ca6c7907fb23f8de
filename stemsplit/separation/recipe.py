"""What decides a song's samples besides the song, and whether a manifest proves it was done so."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from stemsplit.separation.manifest import Recipe, SourceRecord, as_plain, is_done, relative_name

if TYPE_CHECKING:
    from stemsplit.separation.files import FileOptions
    from stemsplit.separation.naming import Job
    from stemsplit.separation.separator import Separator


FRAMING = 2
"""Raise it when a model's chunks, or what is made of them, come to differ by more than rounding."""


def proves_done(job: Job, source: SourceRecord, recipe: Recipe) -> bool:
    """Say whether a song's manifest proves that separating it again would change nothing.

    Args:
        job: The song.
        source: As its file is now.
        recipe: As it would be separated now.
    """
    folder = job.manifest.parent
    files = {stem: relative_name(path, folder) for stem, path in job.outputs.items()}
    stem_mp4 = relative_name(job.stem_mp4, folder) if job.stem_mp4 else None
    return is_done(job.manifest, source, recipe, files, stem_mp4)


def make_recipe(separator: Separator, job: Job, options: FileOptions) -> Recipe:
    """Gather all that decides the samples besides the source.

    The kind of number counts, and what computed them; the device and its threads do not (their
    float32 differs in the last bits only, and a graphics card that is new to a machine is no reason
    to do an archive again), nor does how many chunks went together.
    """
    chosen = asdict(separator.options)
    for name in ("stems", "device", "backend", "threads", "batch_size", "precision"):
        del chosen[name]
    model = separator.model
    recipe: Recipe = as_plain(
        {
            "model": job.model,
            "weights_sha256": getattr(model, "weights_sha256", None),
            "config": asdict(model.config),
            "chunks": [asdict(member.model.chunk) for member in model.members],
            "framing": FRAMING,
            "stems": separator.stems,
            "backend": separator.backend,
            "precision": separator.precision,
            "options": chosen,
            "format": asdict(options.format),
            "clip": options.clip,
        }
    )
    return recipe
