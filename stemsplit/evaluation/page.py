"""The report as one page: no network, readable by day and by night, tables that sort."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from stemsplit.evaluation.results import TrackScores
from stemsplit.evaluation.summary import StemSummary
from stemsplit.evaluation.tables import format_db, group_definitions, lay_out, list_measures
from stemsplit.weights.entry import Score

_STYLE = """
:root { color-scheme: light dark; --line: #d0d0d8; --soft: #f2f2f6; --bad: #a40000; }
@media (prefers-color-scheme: dark) {
  :root { --line: #44444c; --soft: #26262c; --bad: #ff8a8a; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; }
body { padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover { background: var(--soft); }
img { max-width: 100%; background: white; border-radius: 4px; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.5rem; } .bad { color: var(--bad); }
"""

# Numbers sort as numbers, what is missing last either way; the first click gives the lowest first.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const isNumber = head.classList.contains("number");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => {
        const [one, two] = [value(a), value(b)];
        if (isNumber && (one === "" || two === "")) return (one === "") - (two === "");
        const order = isNumber ? one - two : one.localeCompare(two);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}
"""


def write_page(
    title: str,
    facts: Mapping[str, str],
    scores: Sequence[TrackScores],
    stems: Sequence[StemSummary],
    *,
    definitions: Mapping[str, str],
    published: Sequence[Score] = (),
    problems: Sequence[str] = (),
    picture: bytes | None = None,
) -> str:
    """Return the page.

    Args:
        title: What was scored.
        facts: What to know of the run, by name.
        scores: A track each.
        stems: From `summarise`.
        definitions: What each measure is.
        published: What the registry knows of the model.
        problems: What could not be scored, a line each.
        picture: A PNG.
    """
    measures = list_measures(stems)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _list_facts(facts),
        *(f'<p class="bad">{escape(problem)}</p>' for problem in problems),
        "<h2>All tracks, dB</h2>",
        _write_overview(stems, published),
    ]
    if picture is not None:
        code = base64.b64encode(picture).decode("ascii")
        words = "Box plots of every stem over the tracks, a panel for each measure"
        parts += ["<h2>Spread</h2>", f'<img alt="{words}" src="data:image/png;base64,{code}">']
    told = dict(group_definitions(definitions, measures))
    parts += [
        "<h2>Each track, dB</h2>",
        "<p>A click on a column's name sorts by it.</p>",
        _write_tracks(scores, measures),
        "<h2>What the measures are</h2>",
        _list_facts(told),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _list_facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()
    )
    return f"<dl>{rows}</dl>" if rows else ""


def _write_overview(stems: Sequence[StemSummary], published: Sequence[Score]) -> str:
    headers, rows = lay_out(stems, published)
    count = 3 + len(list_measures(stems))
    kinds = ["" if place < 3 or place >= count else "number" for place in range(len(headers))]
    head = "".join(
        f'<th class="{kind}">{escape(name.capitalize() if not kind else name)}</th>'
        for name, kind in zip(headers, kinds, strict=True)
    )
    lines = [
        "".join(
            f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True)
        )
        for row in rows
    ]
    return _write_table(head, lines, "")


def _write_tracks(scores: Sequence[TrackScores], measures: Sequence[str]) -> str:
    names = [("Track", ""), ("Stem", ""), *((measure, "number") for measure in measures)]
    head = "".join(
        f'<th class="{kind}"><button type="button">{escape(name)}</button></th>'
        for name, kind in names
    )
    lines = []
    for track in scores:
        for stem in track.stems:
            values = [stem.of_track(measure) for measure in measures]
            cells = "".join(
                f'<td class="number" data-value="{"" if math.isnan(value) else value}">'
                f"{format_db(value)}</td>"
                for value in values
            )
            note = escape("; ".join(track.notes), quote=True)
            lines.append(
                f'<td title="{note}">{escape(track.track)}</td><td>{escape(stem.stem)}</td>{cells}'
            )
    return _write_table(head, lines, "sorts")


def _write_table(head: str, lines: Sequence[str], kind: str) -> str:
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
