"""What is made sure of before the first step."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from music import make_recipe, write_songs

from stemsplit.datasets import Dataset, Validation
from stemsplit.errors import DatasetError, UsageError
from stemsplit.training.engine import Machines, Request, train
from stemsplit.training.events import Event, Noted
from stemsplit.training.preparation import describe_origin, open_data


def begin(songs: Path, valid: Validation | None = None) -> dict[str, object]:
    dataset, _ = open_data(songs, valid, {}, lambda _: None, offline=True)
    return describe_origin(dataset, None)


def go_on(songs: Path | None, origin: dict[str, object]) -> tuple[Dataset, list[str]]:
    told: list[Event] = []
    dataset, _ = open_data(songs, None, origin, told.append, offline=True)
    return dataset, [event.text for event in told if isinstance(event, Noted)]


def list_roles(dataset: Dataset) -> dict[str, list[str]]:
    return {
        "train": [track.name for track in dataset.select("train")],
        "valid": [track.name for track in dataset.select("valid")],
    }


def test_tracks_that_are_new_since_a_run_was_begun_take_no_part(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, train=2, valid=1, seconds=0.1)
    origin = begin(songs)
    shutil.copytree(songs / "train/train 0", songs / "train/a new one")
    shutil.copytree(songs / "valid/valid 0", songs / "valid/another")
    dataset, notes = go_on(None, origin)
    assert list_roles(dataset) == {"train": ["train 0", "train 1"], "valid": ["valid 0"]}
    assert notes == ["tracks new since the run was begun take no part: a new one, another"]
    # What is written down again is what it was.
    assert describe_origin(dataset, None) == origin


def test_tracks_keep_the_roles_that_a_run_was_begun_with(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, train=3, valid=1, seconds=0.1)
    origin = begin(songs, Validation(names=("train 1",)))
    (songs / "train/train 1").rename(songs / "train 1")
    (songs / "valid/valid 0").rename(songs / "valid/train 1")
    (songs / "train 1").rename(songs / "train/valid 0")
    (songs / "test").mkdir()
    (songs / "train/train 0").rename(songs / "test/train 0")
    dataset, notes = go_on(None, origin)
    assert list_roles(dataset) == {
        "train": ["train 0", "train 2", "valid 0"],
        "valid": ["train 1"],
    }
    assert notes == []


def test_tracks_that_are_gone_are_named(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, train=9, valid=1, seconds=0.1)
    origin = begin(songs)
    for number in range(8):
        shutil.rmtree(songs / f"train/train {number}")
    dataset, notes = go_on(None, origin)
    assert list_roles(dataset) == {"train": ["train 8"], "valid": ["valid 0"]}
    assert notes == [
        "tracks that the run was begun with are gone: train 0, train 1, train 2, train 3, train 4 "
        "and 3 more"
    ]


def test_a_judge_that_is_gone_ends_it(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, train=1, valid=2, seconds=0.1)
    origin = begin(songs)
    shutil.rmtree(songs / "valid/valid 1")
    with pytest.raises(DatasetError, match="judged by 'valid 1', which is not in"):
        go_on(songs, origin)


def learn_one_stem(run: Path, songs: Path, config: dict[str, object]) -> None:
    recipe = make_recipe("lasaft", training={"max_epochs": 1, "batches_per_epoch": 1})
    model = replace(recipe.model, stems=("vocals",), config={**recipe.model.config, **config})
    recipe = replace(recipe, model=model)
    train(Request(run, recipe, songs, machines=Machines("cpu")))


@pytest.mark.parametrize("config", [{}, {"modulation": "film"}, {"control_layers": 1}])
def test_a_network_that_learns_stems_by_comparing_them_needs_two(
    config: dict[str, object], songs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="lasaft learns 2 stems or more at once, not 1"):
        learn_one_stem(tmp_path / "run", songs, config)
    assert not (tmp_path / "run").exists()


def test_without_its_norms_it_learns_one(songs: Path, tmp_path: Path) -> None:
    learn_one_stem(tmp_path / "run", songs, {"modulation": "film", "control_layers": 1})
    assert (tmp_path / "run/model").is_dir()
