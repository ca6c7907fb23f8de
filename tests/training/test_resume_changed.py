"""What `--resume RUN --set ...` may change, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from music import make_recipe
from pytorch_lightning.plugins.precision import MixedPrecision

from stemsplit.errors import CancelledError, UsageError
from stemsplit.training.checkpoints import load_checkpoint
from stemsplit.training.engine import Machines, Request, train
from stemsplit.training.events import Began, Event, Noted, Stepped, Validated
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.restoring import restore_scaler
from stemsplit.training.run_folder import RunFolder


def make_run_recipe(**training: Any) -> RecipeConfig:
    return make_recipe(
        "open-unmix",
        optimiser={"name": "adamw", "lr": 0.01},
        training={"max_epochs": 2, **training},
        validation={"tracks": 1, "scores_every": 2},
    )


@pytest.fixture(scope="module")
def begun(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, complete."""
    folder = tmp_path_factory.mktemp("runs") / "begun"
    train(Request(folder, make_run_recipe(), songs, machines=Machines("cpu")))
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(begun, tmp_path / "run")))


def resume(
    run: RunFolder, *settings: str, on_event: Callable[[Event], None] = lambda _: None
) -> list[Event]:
    told: list[Event] = []

    def tell(event: Event) -> None:
        told.append(event)
        on_event(event)

    recipe = run.read_recipe(settings)
    train(Request(run.path, recipe, resumes=True, machines=Machines("cpu")), tell)
    return told


def read(run: RunFolder) -> dict[str, Any]:
    return load_checkpoint(run.last)


def test_the_optimiser_has_the_new_settings_and_the_old_moments(run: RunFolder) -> None:
    before = read(run)["optimiser"]["state"][0]
    settings = ("optimiser.weight_decay=0.5", "optimiser.betas=[0.5, 0.75]", "optimiser.eps=0.25")
    # A rate of nothing: only the moments move.
    resume(run, *settings, "optimiser.lr=1e-30", "training.max_epochs=3")
    state = read(run)["optimiser"]
    group = state["param_groups"][0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.5, 0.75), 0.25)
    assert state["state"][0]["step"] == before["step"] + 3
    recipe = run.read_recipe()
    assert (recipe.optimiser.weight_decay, recipe.optimiser.betas) == (0.5, (0.5, 0.75))


def test_an_average_may_begin_late_and_end(run: RunFolder) -> None:
    resume(run, "training.ema_decay=0.9", "training.max_epochs=3")
    state = read(run)
    key = "core.nets.vocals.fc1.weight"
    assert state["average"].keys() <= state["model"].keys()
    assert not torch.equal(state["average"][key], state["model"][key])
    resume(run, "training.ema_decay=0.0", "training.max_epochs=4")
    assert read(run)["average"] is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.name=sgd", "optimiser.name.* 'adamw' .* 'sgd'"),
        ("model.stems=[drums]", r"model.stems"),
        ("model.config.hidden_size=8", "model.config.hidden_size"),
        ("model.config.layers=7", "model.config.layers"),
        ("model.statistics=true", "model.statistics.* False .* True"),
    ],
)
def test_what_cannot_change_is_refused_and_the_run_stays(
    setting: str, message: str, run: RunFolder
) -> None:
    before = run.recipe_file.read_bytes()
    with pytest.raises(UsageError, match=message) as refused:
        resume(run, setting, "training.max_epochs=3")
    assert "begin another run" in refused.value.help
    assert run.recipe_file.read_bytes() == before
    assert isinstance(resume(run)[-1], Noted)


def test_a_data_set_of_other_stems_is_refused(run: RunFolder, tmp_path: Path) -> None:
    origin = run.origin_file.read_text()
    run.origin_file.write_text(origin.replace('"stems": [', '"stems": ["piano",'))
    with pytest.raises(Exception, match="piano"):
        resume(run, "training.max_epochs=3")


def test_another_judge_ranks_anew(run: RunFolder) -> None:
    assert all(score > 0 for score, _ in read(run)["ranking"]["best"])
    told = resume(
        run, "validation.monitor=usdr", "validation.scores_every=1", "training.max_epochs=3",
        "training.patience=1",
    )  # fmt: skip
    (over,) = [event for event in told if isinstance(event, Validated)]
    assert over.is_best
    assert read(run)["ranking"]["best"] == [[-over.metrics["usdr"], 2]]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "epoch=0002.ckpt", "last.ckpt",
    ]  # fmt: skip


def test_more_patience_goes_on(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        "open-unmix",
        optimiser={"lr": 1e-12},
        training={"max_epochs": 5, "patience": 1, "min_delta": 0.5},
    )
    run = RunFolder(tmp_path / "run")
    train(Request(run.path, recipe, songs, machines=Machines("cpu")))
    assert read(run)["position"]["epoch"] == 2
    assert isinstance(resume(run)[-1], Noted)
    resume(run, "training.patience=2")
    assert read(run)["position"]["epoch"] == 3


def test_a_run_that_fails_leaves_its_recipe(run: RunFolder) -> None:
    class Fault(Exception):
        pass

    def fail(event: Event) -> None:
        if isinstance(event, Began):
            raise Fault

    before = run.recipe_file.read_bytes()
    with pytest.raises(Fault):
        resume(run, "training.max_epochs=3", on_event=fail)
    assert run.recipe_file.read_bytes() == before


def test_a_scaler_takes_up_what_a_scaler_has_left() -> None:
    def make() -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))

    told = make().state_dict()
    told["scale"] = 32.0
    for state, scale in ((told, 32.0), ({}, 4.0), ({"scale": 32.0}, 4.0)):
        plugin = make()
        restore_scaler(plugin, state)
        assert plugin.state_dict()["scale"] == scale
    bfloat = MixedPrecision("bf16-mixed", "cpu")
    restore_scaler(bfloat, told)
    assert bfloat.state_dict() == {}


def test_more_steps_go_on_in_the_epoch_that_they_ended_in(songs: Path, tmp_path: Path) -> None:
    def begin(name: str, **training: Any) -> RunFolder:
        run = RunFolder(tmp_path / name)
        recipe = make_run_recipe(max_epochs=3, ema_decay=0.5, patience=3, **training)
        train(Request(run.path, recipe, songs, machines=Machines("cpu")))
        return run

    whole, parts = begin("whole"), begin("parts", max_steps=4)
    assert len(parts.metrics_file.read_text().splitlines()) == 3
    assert isinstance(resume(parts)[-1], Noted)
    steps = [e.step for e in resume(parts, "training.max_steps=0") if isinstance(e, Stepped)]
    assert steps == [5, 6, 7, 8, 9]
    ours, theirs = read(parts), read(whole)
    for key in ("position", "schedule", "ranking", "loss_sum"):
        assert ours[key] == theirs[key]
    assert all(torch.equal(tensor, theirs["model"][key]) for key, tensor in ours["model"].items())
    tables = [
        [line.rpartition(",")[0] for line in run.metrics_file.read_text().splitlines()]
        for run in (parts, whole)
    ]
    assert tables[0] == tables[1]


def test_a_signal_in_the_validation_behind_the_last_step_leaves_that_to_do(
    songs: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    request = Request(run.path, make_run_recipe(max_steps=4), songs, machines=Machines("cpu"))
    with pytest.raises(CancelledError):
        train(request, interrupt)
    assert len(run.metrics_file.read_text().splitlines()) == 2
    # One epoch is over, and what is known of it is shown.
    assert (run.plots / "loss.png").is_file()
    assert isinstance(resume(run)[-1], Validated)
    assert len(run.metrics_file.read_text().splitlines()) == 3
    assert isinstance(resume(run)[-1], Noted)
