"""What a run leaves: medians and means, the table, CSV, summary, picture and page."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from pathlib import Path

import pytest

from stemsplit.datasets.track import Track
from stemsplit.errors import DecodeError
from stemsplit.evaluation import ScoreOptions, StemScores, TrackOutcome, TrackScores, summarise
from stemsplit.evaluation.report import Report, write_report
from stemsplit.evaluation.results import FRAME_MEASURES
from stemsplit.evaluation.tables import group_definitions, lay_out, write_csv
from stemsplit.weights.entry import Score

NAN = math.nan
PUBLISHED = (
    Score("MUSDB18 test", "cSDR", {"vocals": 6.3, "drums": 5.7}, "the README"),
    Score("MUSDB18-HQ test", "uSDR", {"vocals": 5.5, "average": 5.0}, "a <paper>"),
)


def make_track(name: str, sdr: float, usdr: float) -> TrackScores:
    frames = dict.fromkeys(FRAME_MEASURES, (sdr, NAN, sdr + 2))
    stems = (
        StemScores("vocals", frames, {"uSDR": usdr}, ("vocals", "drums")),
        StemScores("drums", dict.fromkeys(FRAME_MEASURES, (NAN,)), {"uSDR": 1.0}, ("drums",)),
    )
    return TrackScores(name, "test", 1.0, 1.0, stems, ("a 'note' & \"more\"",), "umx")


TRACKS = (
    make_track("<b>one</b>", 1.0, 3.0),
    make_track("two, $x_2$", 2.0, 4.0),
    make_track("three", 9.0, 8.0),
)


def make_report(tmp_path: Path, published: tuple[Score, ...] = PUBLISHED) -> Report:
    outcomes = [
        TrackOutcome(Track(one.track, "test", {}), "scored", one, path=tmp_path / "x.json")
        for one in TRACKS
    ]
    error = DecodeError("'<four>.wav' cannot be read", help="look at it.")
    outcomes.append(TrackOutcome(Track("four", "test", {}), "failed", error=error))
    return Report(
        name="umx",
        estimates={"model": "umx"},
        root=Path("musdb18"),
        splits=("test",),
        options=ScoreOptions(),
        outcomes=outcomes,
        problems=("five: lacks vocals, left out",),
        published=published,
    )


def test_medians_and_means_leave_out_what_has_no_score() -> None:
    vocals, drums = summarise(TRACKS)
    assert vocals.stem == "vocals"
    assert vocals.spreads["SDR"] == (3.0, 5.0, 3), "medians of frames are 2, 3 and 10"
    assert vocals.spreads["uSDR"] == (4.0, 5.0, 3)
    assert drums.spreads["SDR"].tracks == 0
    assert math.isnan(drums.spreads["SDR"].median)
    assert "SI-SDR" not in vocals.spreads


def test_published_figures_stand_beside_what_they_compare_with() -> None:
    headers, rows = lay_out(summarise(TRACKS), PUBLISHED)
    measures = ("SDR", "ISR", "SIR", "SAR", "uSDR")
    assert headers == ("STEM", "TRACKS", "OVER TRACKS", *measures, "PUBLISHED")
    assert rows[0] == ("vocals", "3", "median", *4 * ("3.00",), "4.00", "cSDR 6.30")
    assert rows[1] == ("", "", "mean", *4 * ("5.00",), "5.00", "uSDR 5.50")
    assert rows[2] == ("drums", "0-3", "median", *4 * ("-",), "1.00", "cSDR 5.70")
    assert rows[3][-1] == ""
    headers, rows = lay_out(summarise(TRACKS), ())
    assert headers[-1] == "uSDR"
    assert {len(row) for row in rows} == {len(headers)}


def test_every_number_of_the_csv_is_named_by_its_definition() -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv(TRACKS))))
    assert len(rows) == 3 * 2 * 5
    assert rows[0] == {
        "split": "test",
        "track": "<b>one</b>",
        "stem": "vocals",
        "measure": "SDR",
        "definition": "BSS Eval v4 (museval), median of frames of 1 s",
        "value_db": "2.00000",
    }
    assert all("MDX" in row["definition"] for row in rows if row["measure"] == "uSDR")
    silent = [row for row in rows if row["stem"] == "drums" and row["measure"] == "SAR"]
    assert [row["value_db"] for row in silent] == [""] * 3


def test_equal_definitions_share_a_line() -> None:
    lines = group_definitions({"SDR": "a", "SIR": "a", "uSDR": "b"}, ("SDR", "SIR", "uSDR"))
    assert lines == [("SDR, SIR", "a"), ("uSDR", "b")]


def test_all_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="box plots want it")
    report = make_report(tmp_path)
    assert write_report(report, tmp_path / "scores") == []
    names = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert names == ["boxes.png", "report.html", "scores.csv", "summary.json"]
    picture = (tmp_path / "scores" / "boxes.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    summary = json.loads(
        (tmp_path / "scores" / "summary.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert summary["stems"]["vocals"]["SDR"] == {"median_db": 3.0, "mean_db": 5.0, "tracks": 3}
    assert summary["stems"]["drums"]["SDR"]["median_db"] is None
    assert [track["status"] for track in summary["tracks"]] == ["scored"] * 3 + ["failed"]
    assert summary["tracks"][0]["scored_with"]["vocals"] == ["vocals", "drums"]
    assert summary["tracks"][3]["message"] == "'<four>.wav' cannot be read"
    assert summary["problems"] == ["five: lacks vocals, left out"]
    assert summary["published"][0]["metric"] == "cSDR"
    assert {"stemsplit", "torch", "numpy", "python"} <= summary["versions"].keys()
    write_report(report, tmp_path / "again")
    for name in names:
        one, other = (tmp_path / folder / name for folder in ("scores", "again"))
        assert one.read_bytes() == other.read_bytes(), name


def test_the_page_stands_alone_and_names_are_only_names(tmp_path: Path) -> None:
    write_report(make_report(tmp_path), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)\w", page), "nothing is fetched"
    assert "<b>one" not in page
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert "a &lt;paper&gt;" in page
    assert "&#x27;&lt;four&gt;.wav&#x27; cannot be read" in page
    assert 'title="a &#x27;note&#x27; &amp; &quot;more&quot;"' in page
    assert "color-scheme: light dark" in page
    assert page.count("<script>") == 1
    assert page.count('<td class="number" data-value="">-</td>') == 3 * 4


def test_without_matplotlib_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "boxes.png").write_bytes(b"of an earlier run")
    (note,) = write_report(make_report(tmp_path), tmp_path)
    assert 'pip install "stemsplit[eval]"' in note
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["report.html", "scores.csv", "summary.json"]
    assert "<img" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_was_scored(tmp_path: Path) -> None:
    report = make_report(tmp_path)
    empty = Report("umx", {}, Path("musdb18"), ("test",), ScoreOptions(), report.outcomes[3:])
    write_report(empty, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["stems"] == {}
    assert empty.failures == ("four: '<four>.wav' cannot be read",)
