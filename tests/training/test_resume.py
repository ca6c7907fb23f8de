"""A run that is stopped, in whatever way, ends as one that is not: bit for bit."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from music import make_recipe

from stemsplit.errors import CancelledError, CheckpointError, UsageError
from stemsplit.training.checkpoints import load_checkpoint, save_checkpoint
from stemsplit.training.engine import Machines, Request, train
from stemsplit.training.events import Event, Noted, Stepped, Validated
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.recipe_files import load_recipe, write_recipe
from stemsplit.training.run_folder import RunFolder
from stemsplit.training.stream import Position

ROOT = Path(__file__).parents[2]


class Cut(Exception):
    """What ends a run here, as a fault in the middle of it would."""


def make_busy_recipe() -> RecipeConfig:
    """Everything that has a state, or draws: dropout, augmentation, averages, schedule."""
    return make_recipe(
        "open-unmix",
        augment={"gain_low": 0.25, "gain_high": 1.25, "swap_p": 0.5, "item_gain_db": 6.0},
        optimiser={"name": "adamw", "lr": 0.01, "weight_decay": 0.01},
        schedule={"name": "plateau", "factor": 0.5, "patience": 0, "warmup_steps": 4,
                  "threshold": 0.9},
        training={"batch": 1, "max_epochs": 3, "ema_decay": 0.9, "checkpoint_steps": 2,
                  "keep": 2, "accumulate": 1, "clip": 1.0},
        validation={"tracks": 1, "scores_every": 2},
    )  # fmt: skip


def run(folder: Path, songs: Path, on_event: Callable[[Event], None] = lambda _: None) -> None:
    train(Request(folder, make_busy_recipe(), songs, machines=Machines("cpu")), on_event)


def resume(folder: Path, on_event: Callable[[Event], None] = lambda _: None) -> None:
    recipe = RunFolder(folder).read_recipe()
    train(Request(folder, recipe, resumes=True, machines=Machines("cpu")), on_event)


def list_tensors(state: Any, where: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        pairs = state.items()
    elif isinstance(state, list):
        pairs = enumerate(state)
    else:
        return {where: state}
    return {k: v for key, inner in pairs for k, v in list_tensors(inner, f"{where}/{key}").items()}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("seconds", None)
    return rows


def check_same(folder: Path, other: Path) -> None:
    for name in ("last.ckpt", *(path.name for path in other.glob("checkpoints/epoch=*"))):
        ours = list_tensors(load_checkpoint(folder / "checkpoints" / name))
        theirs = list_tensors(load_checkpoint(other / "checkpoints" / name))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, theirs[key]), key
            else:
                assert value == theirs[key], key
    for name in ("metrics.csv", "steps.csv"):
        assert read_rows(folder / name) == read_rows(other / name)
    models = [sorted((one / "model").glob("*.safetensors")) for one in (folder, other)]
    assert [path.name for path in models[0]] == [path.name for path in models[1]]
    assert models[0][0].read_bytes() == models[1][0].read_bytes()


@pytest.fixture(scope="module")
def undisturbed(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(folder, songs)
    return folder


def test_the_undisturbed_run_is_worth_comparing_with(undisturbed: Path) -> None:
    state = load_checkpoint(undisturbed / "checkpoints/last.ckpt")
    assert state["position"] == asdict(Position(3, 0, 18))
    assert state["schedule"]["plateau"] < 1
    steps = read_rows(undisturbed / "steps.csv")
    assert [int(row["step"]) for row in steps] == [*range(1, 19)]
    assert len({row["loss"] for row in steps}) == 18
    assert [row["usdr"] != "" for row in read_rows(undisturbed / "metrics.csv")] == [
        False, True, True,
    ]  # fmt: skip
    assert not torch.equal(
        state["average"]["core.nets.vocals.fc1.weight"],
        state["model"]["core.nets.vocals.fc1.weight"],
    )


@pytest.mark.parametrize(
    ("what", "when"), [(Stepped, 1), (Stepped, 6), (Stepped, 11), (Validated, 1)]
)
def test_a_fault_loses_nothing(
    what: type, when: int, songs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "undisturbed"

    def cut(event: Event) -> None:
        if isinstance(event, what) and getattr(event, "step", getattr(event, "epoch", 0)) == when:
            raise Cut

    with pytest.raises(Cut):
        run(folder, songs, cut)
    resume(folder)
    check_same(folder, undisturbed)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    songs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "undisturbed"
    write_recipe(make_busy_recipe(), tmp_path / "busy.toml")
    code = (
        "import os, signal, sys; from pathlib import Path; import torch\n"
        "torch.set_num_threads(1)\n"
        "from stemsplit.training.engine import Machines, Request, train\n"
        "from stemsplit.training.recipe_files import load_recipe\n"
        "def kill(event):\n"
        "    if getattr(event, 'step', 0) == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run, recipe, songs = map(Path, sys.argv[1:])\n"
        "train(Request(run, load_recipe(recipe), songs, machines=Machines('cpu')), kill)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "busy.toml", songs],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    # In the middle of the second epoch, a step behind the last checkpoint.
    state = load_checkpoint(folder / "checkpoints/last.ckpt")
    assert state["position"] == asdict(Position(1, 2, 8))
    resume(folder)
    check_same(folder, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_a_step_with_a_checkpoint(
    number: signal.Signals, songs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "undisturbed"
    before = signal.getsignal(number)

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 7:
            os.kill(os.getpid(), number)

    with pytest.raises(CancelledError, match="stopped") as stopped:
        run(folder, songs, interrupt)
    assert f"--resume {folder}" in stopped.value.help
    assert signal.getsignal(number) is before
    state = load_checkpoint(folder / "checkpoints/last.ckpt")
    # The signal came with step 7, and the next step was the last.
    assert state["position"]["step"] == 8
    resume(folder)
    check_same(folder, undisturbed)


def test_a_signal_during_a_validation_leaves_that_to_do(
    songs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "undisturbed"

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 18:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(CancelledError):
        run(folder, songs, interrupt)
    state = load_checkpoint(folder / "checkpoints/last.ckpt")
    assert state["position"] == asdict(Position(2, 6, 18))
    resume(folder)
    check_same(folder, undisturbed)


def test_a_run_that_is_complete_says_so(undisturbed: Path) -> None:
    told: list[Event] = []
    before = (undisturbed / "checkpoints/last.ckpt").read_bytes()
    resume(undisturbed, told.append)
    assert [event.text for event in told if isinstance(event, Noted)] == [
        "the run is complete: 3 epochs, 18 steps"
    ]
    assert (undisturbed / "checkpoints/last.ckpt").read_bytes() == before


def test_a_run_is_not_begun_twice(undisturbed: Path, songs: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already") as refused:
        run(undisturbed, songs)
    assert f"--resume {undisturbed}" in refused.value.help


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        resume(tmp_path)


def test_the_resolved_recipe_is_a_recipe(undisturbed: Path) -> None:
    assert load_recipe(undisturbed / "recipe.toml") == make_busy_recipe()
    assert json.loads((undisturbed / "run.json").read_text())["valid"] == ["valid 0"]


def zero(path: Path) -> None:
    """Write zeros in the middle, as a bad disk does: all else is as it was."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(1000))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("a letter, and no checkpoint\n"),
        lambda path: path.write_bytes(b"\x80\x02}q\x00."),
        zero,
    ],
    ids=["cut", "empty", "text", "pickle", "zeros"],
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"tensor": torch.ones(1000)})
    damage(path)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as refused:
        load_checkpoint(path)
    assert refused.value.help == "train anew: there is no other checkpoint beside it."


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    for state, told in (({"format": 99}, "format 99"), ([1], "format None")):
        torch.save(state, path)
        with pytest.raises(CheckpointError, match=told):
            load_checkpoint(path)


def test_a_whole_checkpoint_beside_a_damaged_one_is_named(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(undisturbed, tmp_path / "undisturbed"))
    last, kept = folder / "checkpoints/last.ckpt", sorted(folder.glob("checkpoints/epoch=*.ckpt"))
    assert len(kept) == 2
    zero(last)
    with pytest.raises(CheckpointError) as refused:
        resume(folder)
    assert f"copy {kept[1]} over it" in refused.value.help
    zero(kept[1])
    with pytest.raises(CheckpointError) as refused:
        resume(folder)
    assert f"copy {kept[0]} over it" in refused.value.help
    last.unlink()
    with pytest.raises(CheckpointError, match="No such file") as refused:
        resume(folder)
    assert f"copy {kept[0]} over it" in refused.value.help
    shutil.copy(kept[0], last)
    resume(folder)
    check_same(folder, undisturbed)
