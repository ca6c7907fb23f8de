"""Many tracks: what is kept, done again, stopped, refused, and what goes wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from linear_model import LinearModel
from small_songs import RATE, make_stems, spoil, write_track
from torch import Tensor

from stemsplit.datasets import Dataset, Track, open_dataset
from stemsplit.errors import DatasetError, OutputError, UnknownNameError, UsageError
from stemsplit.evaluation import (
    FolderEstimates,
    ModelEstimates,
    Places,
    ScoreOptions,
    TrackOutcome,
    TrackProgress,
    TrackScores,
    score_dataset,
    usdr,
)
from stemsplit.evaluation.estimates import EstimateSource, Share, expect_stems
from stemsplit.evaluation.references import References, read_references
from stemsplit.evaluation.results import write_scores
from stemsplit.separation.separator import Separator

TWO = ("drums", "vocals")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of two stems and two tracks, with estimates beside it."""
    for seed, name in enumerate(("one", "two")):
        stems = make_stems(seed, TWO)
        write_track(tmp_path / "data" / "test" / name, {**stems, "mixture": sum(stems.values())})
        write_track(tmp_path / "estimates" / name, spoil(stems))
    return tmp_path


def open_both(root: Path, stems: tuple[str, ...] = TWO) -> tuple[Dataset, FolderEstimates]:
    return open_dataset(root / "data"), FolderEstimates(
        root / "estimates", (*stems, "accompaniment")
    )


def open_one(root: Path) -> Dataset:
    dataset = open_dataset(root / "data")
    return replace(dataset, tracks=dataset.tracks[:1])


def score(root: Path, **options: object) -> list[TrackOutcome]:
    dataset, source = open_both(root)
    places = Places(root / "scores")
    given = {"places": places, "options": ScoreOptions(stems=TWO), **options}
    return score_dataset(dataset, source, **given)  # type: ignore[arg-type]  # its own options


def list_statuses(outcomes: list[TrackOutcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_what_is_proven_is_kept_and_what_changed_is_not(root: Path) -> None:
    first = score(root, jobs=2)
    assert list_statuses(first) == ["scored", "scored"]
    assert [outcome.track.name for outcome in first] == ["one", "two"]
    again = score(root)
    assert list_statuses(again) == ["kept", "kept"]
    assert repr([one.scores for one in again]) == repr([one.scores for one in first])
    os.utime(root / "estimates" / "two" / "drums.wav", (1, 1))
    assert list_statuses(score(root)) == ["kept", "scored"]
    os.utime(root / "data" / "test" / "one" / "vocals.wav", (1, 1))
    assert list_statuses(score(root)) == ["scored", "kept"]
    shorter = ScoreOptions(stems=TWO, window_s=0.5)
    assert list_statuses(score(root, options=shorter)) == ["scored", "scored"]
    anew = Places(root / "scores", overwrite=True)
    assert list_statuses(score(root, options=shorter, places=anew)) == ["scored", "scored"]
    assert sorted(path.name for path in (root / "scores").rglob("*")) == [
        "one.json",
        "test",
        "two.json",
    ]


def test_another_models_scores_are_not_mixed_in(root: Path) -> None:
    score(root)
    os.rename(root / "estimates", root / "others")
    dataset = open_dataset(root / "data")
    source = FolderEstimates(root / "others", TWO)
    before = (root / "scores" / "test" / "two.json").read_bytes()
    with pytest.raises(UsageError, match=r"holds scores of .*estimates") as caught:
        score_dataset(dataset, source, places=Places(root / "scores"))
    assert "--overwrite" in caught.value.help
    assert (root / "scores" / "test" / "two.json").read_bytes() == before
    places = Places(root / "scores", overwrite=True)
    assert list_statuses(score_dataset(dataset, source, places=places)) == ["scored"] * 2
    (root / "scores" / "test" / "two.json").write_text("{}")
    with pytest.raises(UsageError, match="another program"):
        score_dataset(dataset, source, places=Places(root / "scores"))


def take_the_folder(root: Path) -> None:
    os.rename(root / "estimates" / "one", root / "elsewhere")


def take_all_stems(root: Path) -> None:
    for path in (root / "estimates" / "one").iterdir():
        path.rename(path.with_name(f"my_{path.name}"))


def cut_a_stem(root: Path) -> None:
    path = root / "estimates" / "one" / "drums.wav"
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples[:4000], RATE)


def convert_a_stem(root: Path) -> None:
    path = root / "estimates" / "one" / "drums.wav"
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples, 2 * RATE)


def damage_a_stem(root: Path) -> None:
    (root / "data" / "test" / "one" / "vocals.wav").write_bytes(b"no sound at all")


def double_a_stem(root: Path) -> None:
    path = root / "estimates" / "one" / "drums.wav"
    path.with_suffix(".flac").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (take_the_folder, "there are no estimates of 'one'"),
        (take_all_stems, "has no estimate of drums, vocals, accompaniment"),
        (cut_a_stem, "estimate of drums is 1.00 s shorter than the track"),
        (convert_a_stem, "estimate of drums has 8000 Hz and the track 4000 Hz"),
        (damage_a_stem, "vocals.wav"),
        (double_a_stem, "has drums more than once: drums.flac and drums.wav"),
    ],
)
def test_a_bad_track_fails_alone(root: Path, harm, words: str) -> None:  # type: ignore[no-untyped-def]  # one of the above
    earlier = TrackScores("one", "test", 1.0, 1.0, (), estimates=str(root / "estimates"))
    write_scores(root / "scores" / "test" / "one.json", earlier)
    harm(root)
    outcomes = score(root)
    assert list_statuses(outcomes) == ["failed", "scored"]
    assert outcomes[0].error is not None
    assert words in outcomes[0].error.message
    left = [path.name for path in (root / "scores" / "test").iterdir()]
    assert left == ["two.json"], "no scores of an earlier run stand for this one's"


def test_estimates_by_split_and_of_any_format(root: Path) -> None:
    (root / "split" / "test").mkdir(parents=True)
    os.rename(root / "estimates" / "one", root / "split" / "test" / "one")
    os.rename(root / "estimates" / "two", root / "split" / "two.stem")
    path = root / "split" / "test" / "one" / "drums.wav"
    samples, _ = soundfile.read(path)
    soundfile.write(path.with_suffix(".flac"), samples, RATE, subtype="PCM_24")
    path.unlink()
    vocals = root / "split" / "two.stem" / "vocals.wav"
    vocals.with_name("no_vocals.wav").write_bytes(
        (root / "split" / "two.stem" / "drums.wav").read_bytes()
    )
    dataset = open_dataset(root / "data")
    source = FolderEstimates(root / "split", (*TWO, "accompaniment"))
    outcomes = score_dataset(dataset, source)
    assert list_statuses(outcomes) == ["scored", "scored"]
    assert outcomes[1].scores is not None
    by_stem = {stem.stem: stem for stem in outcomes[1].scores.stems}
    assert by_stem["vocals"].scored_with == ("vocals", "accompaniment")
    assert by_stem["accompaniment"].whole == by_stem["drums"].whole


THREE = ("drums", "bass", "vocals")


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """A data set of three stems and tracks; the first one's estimates lack two."""
    for seed, name in enumerate(("one", "two", "zoo")):
        stems = make_stems(seed, THREE)
        write_track(tmp_path / "data" / "test" / name, {**stems, "mixture": sum(stems.values())})
        write_track(tmp_path / "estimates" / name, spoil(stems))
    take_estimates(tmp_path, "one")
    return tmp_path


def take_estimates(root: Path, name: str) -> None:
    for stem in ("drums", "bass"):
        (root / "estimates" / name / f"{stem}.wav").unlink()


def test_stems_that_a_track_lacks_are_told(partial: Path) -> None:
    options = ScoreOptions(window_s=2)
    dataset, source = open_both(partial, THREE)
    for status in ("scored", "kept"):
        places = Places(partial / "scores")
        outcomes = score_dataset(dataset, source, options=options, places=places)
        assert list_statuses(outcomes) == [status] * 3
        assert [one.missing for one in outcomes] == [("drums", "bass"), (), ()]
        notes = [one.scores.notes for one in outcomes if one.scores]
        assert [len(told) for told in notes] == [1, 0, 0]
        assert notes[0][0].startswith("no estimate of drums, bass: SIR and SAR depend on it")
    take_estimates(partial, "zoo")
    outcomes = score_dataset(dataset, source, options=options, places=places)
    assert list_statuses(outcomes) == ["scored"] * 3, "what is told of a track is told anew"
    assert [one.missing for one in outcomes] == [()] * 3
    notes = [one.scores.notes for one in outcomes if one.scores]
    assert [len(told) for told in notes] == [0, 1, 0]
    assert notes[1][0].startswith("most tracks have no drums, bass: ")


def test_stems_that_most_tracks_have_or_that_are_asked_for_are_expected(partial: Path) -> None:
    dataset, source = open_both(partial, THREE)

    def expect(*wanted: str) -> set[str]:
        return set(expect_stems(source, dataset.tracks, wanted or None))

    assert expect() == set(THREE)
    assert expect("vocals", "accompaniment") == {"vocals"}, "the mixture less the vocals"
    (partial / "estimates" / "two").rename(partial / "elsewhere")
    assert expect() == set(THREE), "one of two is no reason to think that the other has too many"
    take_estimates(partial, "zoo")
    assert expect() == {"vocals"}
    assert expect("vocals", "bass") == {"vocals", "bass"}
    for name in ("one", "zoo"):
        folder = partial / "estimates" / name
        (folder / "vocals.wav").rename(folder / "accompaniment.wav")
    assert expect("accompaniment") == {"accompaniment"}


def test_a_model_separates_and_keeps_nothing_unless_asked(root: Path) -> None:
    dataset = open_one(root)
    model = LinearModel({"drums": 0.5, "vocals": 0.5, "piano": 0.1})
    model.name = "half"
    source = ModelEstimates(Separator(model, device="cpu"))
    events: list[TrackOutcome | TrackProgress] = []
    scored = Places(root / "scores")
    outcomes = score_dataset(dataset, source, places=scored, jobs=2, on_event=events.append)
    assert list_statuses(outcomes) == ["scored"]
    assert sorted(path.name for path in root.iterdir()) == ["data", "estimates", "scores"]
    first = outcomes[0].scores
    assert first is not None
    assert first.notes == ("not scored, as the data set has none: piano",)
    references = read_references(dataset.tracks[0])
    heard = Separator(model, device="cpu").separate(references.mixture, RATE)
    expected = usdr(references.stems["vocals"], heard["vocals"])
    assert first.stems[1].whole["uSDR"] == pytest.approx(expected, abs=1e-4)
    stages = {event.stage for event in events if isinstance(event, TrackProgress)}
    assert stages == {"read", "separate", "score"}
    kept = Places(root / "scores", root / "kept")
    assert list_statuses(score_dataset(dataset, source, places=kept)) == ["scored"]
    assert list_statuses(score_dataset(dataset, source, places=kept)) == ["kept"]
    again = score_dataset(dataset, FolderEstimates(root / "kept", TWO))
    assert [one.scores.stems[:2] for one in again if one.scores] == [first.stems[:2]], (
        "estimates that are kept have the scores that they had"
    )
    (root / "kept" / "test" / "one" / "vocals.wav").unlink()
    assert list_statuses(score_dataset(dataset, source, places=kept)) == ["scored"]


def test_estimates_are_never_kept_over_true_stems(root: Path) -> None:
    dataset = open_one(root)
    model = LinearModel(dict.fromkeys(TWO, 0.5))
    source = ModelEstimates(Separator(model, device="cpu"))
    data = root / "data"
    before = {path: path.read_bytes() for path in data.rglob("*.wav")}
    (root / "link").symlink_to(data, target_is_directory=True)
    (root / "kept" / "test" / "one").mkdir(parents=True)
    (root / "kept" / "test" / "one" / "vocals.wav").hardlink_to(data / "test" / "one" / "drums.wav")
    for whole, keep in (
        (dataset, data),
        (dataset, data / "estimates"),
        (dataset, root / "link"),
        (dataset, root / "kept"),
        (open_dataset(root / "link"), data),
    ):
        places = Places(root / "scores", keep, overwrite=True)
        with pytest.raises(UsageError, match="among the true stems") as caught:
            score_dataset(whole, source, splits=("train", "test"), places=places)
        assert "--keep" in caught.value.help
    assert {path: path.read_bytes() for path in data.rglob("*.wav")} == before
    assert not (root / "scores").exists()


def test_other_weights_are_other_scores(root: Path) -> None:
    dataset = open_one(root)
    for weights, status in (("first", "scored"), ("first", "kept"), ("second", "scored")):
        model = LinearModel(dict.fromkeys(TWO, 0.5), name=weights)
        source = ModelEstimates(Separator(model, device="cpu"))
        outcomes = score_dataset(dataset, source, places=Places(root / "scores"))
        assert list_statuses(outcomes) == [status]


class StopsAtTheSecond(EstimateSource):
    """Perfect estimates, and then Ctrl-C."""

    name = "stopping"
    is_serial = True

    def __init__(self) -> None:
        self.calls = 0

    def list_stems(self, track: Track) -> tuple[str, ...]:
        return TWO

    def identify(self, track: Track) -> Mapping[str, object]:
        return {}

    def describe(self) -> Mapping[str, object]:
        return {}

    def estimate(
        self, track: Track, references: References, notes: list[str], on_share: Share
    ) -> Mapping[str, Tensor]:
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return references.stems


def test_stopped_in_the_middle_it_goes_on(root: Path) -> None:
    dataset, source = open_dataset(root / "data"), StopsAtTheSecond()
    ended = threading.Event()

    def listen(event: TrackOutcome | TrackProgress) -> None:
        if isinstance(event, TrackOutcome):
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        score_dataset(dataset, source, places=Places(root / "scores"), on_event=listen)
    ended.wait(20)
    files = sorted(path.name for path in (root / "scores").rglob("*.json"))
    outcomes = score_dataset(dataset, source, places=Places(root / "scores"))
    assert list_statuses(outcomes) == ["kept" if files else "scored", "scored"]
    assert not list((root / "scores").rglob("*.new"))


def test_a_place_that_cannot_be_written_to_ends_it(root: Path) -> None:
    (root / "scores").write_text("a file")
    with pytest.raises(OutputError):
        score(root)


def test_torch_has_its_threads_back(root: Path) -> None:
    torch.set_num_threads(3)
    try:
        score(root, jobs=2)
        with ThreadPoolExecutor(1) as others:
            assert others.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(1)


def test_no_such_tracks_stems_or_folders(root: Path) -> None:
    dataset, source = open_both(root)
    with pytest.raises(DatasetError, match="no track in valid; it has 0 train, 0 valid, 2 test"):
        score_dataset(dataset, source, splits=("valid",))
    with pytest.raises(UnknownNameError, match="vocal"):
        score_dataset(dataset, source, options=ScoreOptions(stems=("vocal",)))
    with pytest.raises(UsageError, match="no folder"):
        FolderEstimates(root / "nowhere", TWO)
