"""Write docs/models.md from the registry, so that the page never says anything else.

Call it with --check to fail where the page is not what it would write.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stemsplit.weights.registry import ModelEntry, Registry, Score

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
HEAD = """# Models

Every model that `stemsplit models list` shows; `stemsplit models info NAME` says the same of
one. This page is written by `python tools/models_page.py` from `models.toml`. Scores are the
publishers', on the data they name: cSDR is museval's (median of frames, then of tracks), uSDR
is of whole tracks (mean of tracks); the two are never compared. Weights trained on MUSDB18
inherit its restriction to educational purposes, whatever their licence says. A model whose
files have no published hash is "recorded": what the first download brought is checked ever
after.
"""


def describe_score(score: Score) -> str:
    values = ", ".join(f"{stem} {value:.2f}" for stem, value in score.values.items())
    return f"{values} ({score.metric}, {score.dataset}; {score.source})"


def describe(entry: ModelEntry) -> str:
    pins = {file.pin or "recorded" for file in entry.files}
    size = "not published" if entry.size is None else f"{entry.size / 1e6:.0f} MB"
    members = ", ".join(member.model for member in entry.members)
    default = ", the default" if entry.name == Registry.load().default else ""
    lines = [
        f"## {entry.name}{default}",
        "",
        entry.description,
        "",
        f"- stems: {', '.join(entry.all_stems)}",
        f"- architecture: {entry.architecture or f'ensemble of {members}'}",
        f"- licence of the weights: {entry.licence}",
        f"- source: {entry.source_page}",
        f"- download: {size}; checked by {', '.join(sorted(pins))}",
    ]
    if entry.paper:
        lines.append(f"- paper: {entry.paper}")
    if entry.verified:
        lines.append(f"- verified: {entry.verified}")
    lines += [f"- published score: {describe_score(score)}" for score in entry.scores]
    return "\n".join(lines)


def main() -> int:
    # The shipped registry alone, whatever the person has set up.
    os.environ.pop("STEMSPLIT_REGISTRY", None)
    registry = Registry.load()
    models = [describe(registry.get(name)) for name in registry.names()]
    page = "\n\n".join([HEAD.rstrip(), *models])
    if "--check" in sys.argv:
        return 0 if PAGE.read_text(encoding="utf-8") == page + "\n" else 1
    PAGE.write_text(page + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
