"""A track's file: museval's structure, whole or not at all, and the same when it is read again."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path

import pytest

from stemsplit.evaluation.results import (
    FRAME_MEASURES,
    StemScores,
    TrackScores,
    read_scores,
    tidy,
    write_scores,
)

NAN = math.nan


def make_scores(track: str = "Señor <1>", shift: float = 0.0) -> TrackScores:
    stems = tuple(
        StemScores(
            stem,
            dict.fromkeys(FRAME_MEASURES, (place + shift, NAN, place + 2.0)),
            {"uSDR": 1.5 + place, "SI-SDR": NAN},
            ("vocals", "accompaniment"),
        )
        for place, stem in enumerate(("vocals", "accompaniment"))
    )
    return TrackScores(track, "test", 1.0, 0.5, stems, ("a note",), "umx", "", "abc")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "test" / "a.json"
    scores = make_scores()
    write_scores(path, scores)
    again = read_scores(path)
    assert again is not None
    assert repr(again) == repr(scores), "NaN equals nothing, but is written the same"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_it_is_musevals_structure(tmp_path: Path) -> None:
    write_scores(tmp_path / "a.json", make_scores())
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    target = told["targets"][1]
    assert target["name"] == "accompaniment"
    assert target["frames"][2] == {
        "time": 1.0,
        "duration": 1.0,
        "metrics": {"SDR": 3.0, "ISR": 3.0, "SIR": 3.0, "SAR": 3.0},
    }
    assert math.isnan(target["frames"][1]["metrics"]["SDR"])
    assert isinstance(told["museval_version"], str)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"targets": []}', "\udcff"])
def test_what_is_no_file_of_ours(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    assert read_scores(path) is None
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_scores(path) is None


@pytest.mark.parametrize(("value", "kept"), [(1.234567, 1.23457), (-1e-9, 0.0), (200.0, 200.0)])
def test_five_decimals(value: float, kept: float) -> None:
    assert tidy(value) == kept


@pytest.mark.parametrize("value", [math.inf, -math.inf, NAN])
def test_what_has_no_end_is_no_number(value: float) -> None:
    assert math.isnan(tidy(value))


def test_the_median_of_frames_leaves_out_silence() -> None:
    stem = make_scores().stems[0]
    assert stem.of_track("SDR") == 1.0
    assert stem.of_track("uSDR") == 1.5
    assert math.isnan(stem.of_track("SI-SDR"))
    silent = StemScores("bass", {"SDR": (NAN, NAN)}, {}, ("bass",))
    assert math.isnan(silent.of_track("SDR"))


def test_museval_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pandas", "simplejson", "jsonschema", "soundfile"):
        pytest.importorskip(package, reason="museval's stores want it")
    # musdb, which is imported there and not used here, wants ffprobe.
    monkeypatch.setitem(sys.modules, "musdb", types.ModuleType("musdb"))
    museval = pytest.importorskip("museval", reason="the oracle is not installed")
    for track, shift in (("a", 0.0), ("b", 1.0), ("c", 8.0)):
        write_scores(tmp_path / "test" / f"{track}.json", make_scores(track, shift))
    told = json.loads((tmp_path / "test" / "a.json").read_text(encoding="utf-8"))
    store = museval.TrackStore("a")
    store.scores = told
    store.validate()
    everything = museval.EvalStore()
    everything.add_eval_dir(tmp_path)
    found = everything.agg_frames_tracks_scores()
    # Tracks' medians of vocals are 1, 1.5 and 5.
    assert found["vocals"]["SDR"] == pytest.approx(1.5)
    assert found["accompaniment"]["SAR"] == pytest.approx(2.5)
