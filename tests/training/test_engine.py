"""A whole training, small: from files to a model that opens like a published one."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from music import STEMS, make_recipe, write_songs

from stemsplit.errors import (
    CheckpointError,
    DatasetError,
    OfflineError,
    OutputError,
    TrainingError,
    UnknownNameError,
    UsageError,
)
from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.separation.separator import Separator
from stemsplit.training.checkpoints import load_checkpoint
from stemsplit.training.engine import Machines, Request, shorten, train
from stemsplit.training.events import Began, Event, Noted, Stepped, Validated
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.run_folder import RunFolder
from stemsplit.weights.load import load_model
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

ONE_STEP = {"max_epochs": 1, "batches_per_epoch": 1}


def learn(run: Path, recipe: RecipeConfig, songs: Path, **others: object) -> list[Event]:
    told: list[Event] = []
    request = Request(run, recipe, songs, machines=Machines("cpu"))
    train(replace(request, **others), told.append)  # type: ignore[arg-type]  # fields of a request
    return told


def open_run(run: Path, cache: Path) -> StemModel:
    model = load_model(run, registry=Registry.load(()), store=Store(cache, offline=True))
    assert isinstance(model, StemModel)
    return model


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_learns_and_opens(
    architecture: str, songs: Path, tmp_path: Path
) -> None:
    run = tmp_path / f"{architecture} Run"
    recipe = make_recipe(architecture, training=ONE_STEP)
    began, _, over = learn(run, recipe, songs)
    assert isinstance(began, Began)
    assert (began.train_tracks, began.valid_tracks, began.batches) == (3, 1, 1)
    assert isinstance(over, Validated)
    assert over.is_best
    model = open_run(run, tmp_path / "cache")
    assert model.name == f"{architecture}-run"
    assert model.stems == STEMS
    state = load_checkpoint(run / "checkpoints/last.ckpt")
    trained = type(model)(model.config).eval()
    trained.load_state_dict(state["model"])
    mixture = 0.1 * torch.randn(1, 2, 30_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(mixture), trained(mixture))
    ours, theirs = (Separator(one).separate(mixture[0]) for one in (model, trained))
    assert all(torch.equal(ours[stem], theirs[stem]) for stem in STEMS)


def test_it_learns(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        "open-unmix",
        model={"statistics": True},
        training={"max_epochs": 8, "batch": 3, "ema_decay": 0.5},
        optimiser={"lr": 0.01},
        validation={"tracks": -1, "scores_every": 8},
    )
    told = learn(tmp_path / "run", recipe, songs)
    epochs = [event for event in told if isinstance(event, Validated)]
    first, last = epochs[0].metrics, epochs[-1].metrics
    assert last["validation_loss"] < 0.7 * first["validation_loss"]
    assert "usdr" not in first
    assert last["usdr"] > 2
    assert {path.name for path in (tmp_path / "run/plots").iterdir()} == {"loss.png", "sdr.png"}
    for picture in (tmp_path / "run/plots").iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_folder_holds_what_is_promised(songs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = make_recipe("x-umx", training={"max_epochs": 3, "keep": 2, "tensorboard": True})
    learn(run, recipe, songs)
    assert {path.name for path in run.iterdir()} == {
        "recipe.toml", "run.json", "metrics.csv", "steps.csv", "plots", "checkpoints", "model",
        "tensorboard",
    }  # fmt: skip
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(kept) == 3
    assert kept[-1] == "last.ckpt"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = sorted(range(3), key=lambda epoch: float(rows[epoch]["validation_loss"]))[:2]
    assert kept[:2] == [f"epoch={epoch:04d}.ckpt" for epoch in sorted(best)]
    (weights,) = (run / "model").glob("*.safetensors")
    assert weights.name == f"weights-{best[0]:04d}.safetensors"
    assert any((run / "tensorboard").glob("events.*"))


def test_a_loss_that_is_no_number_ends_it_and_names_the_batch(songs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = make_recipe(
        "open-unmix",
        optimiser={"name": "sgd", "lr": 1e38, "momentum": 0.0},
        training={"checkpoint_steps": 0},
    )
    with pytest.raises(TrainingError) as stopped:
        learn(run, recipe, songs)
    message = stopped.value.message
    assert "in epoch 0, batch 1, step 1" in message
    assert "item 0 vocals of 'train " in message
    assert " from sample " in message
    assert RunFolder(run).read_recipe() == recipe
    assert not (run / "checkpoints").exists()


def test_patience_ends_it_but_not_before_the_least(songs: Path, tmp_path: Path) -> None:
    # A rate of nearly nothing: no epoch is better by so much.
    recipe = make_recipe(
        "open-unmix",
        optimiser={"lr": 1e-12},
        training={"max_epochs": 9, "patience": 2, "min_delta": 0.5, "min_epochs": 4, "batch": 6},
    )
    told = learn(tmp_path / "run", recipe, songs)
    assert len([event for event in told if isinstance(event, Validated)]) == 4


def test_steps_end_it_in_the_middle_of_an_epoch(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe("open-unmix", training={"max_epochs": 9, "max_steps": 4})
    told = learn(tmp_path / "run", recipe, songs)
    assert [event.step for event in told if isinstance(event, Stepped)] == [1, 2, 3, 4]
    assert isinstance(told[-1], Validated)
    state = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert state["position"]["step"] == 4


def test_accumulated_batches_are_one_larger_one(songs: Path, tmp_path: Path) -> None:
    # No norm over the batch, no dropout: the sum of gradients is all there is.
    whole = make_recipe("bsrnn", training={"batch": 4, "max_epochs": 1, "batches_per_epoch": 1})
    parts = make_recipe(
        "bsrnn", training={"batch": 2, "accumulate": 2, "max_epochs": 1, "batches_per_epoch": 2}
    )
    for name, recipe in (("whole", whole), ("parts", parts)):
        learn(tmp_path / name, recipe, songs)
    states = [
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "parts")
    ]
    assert [state["position"]["step"] for state in states] == [1, 1]
    for key, tensor in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][key], tensor, rtol=1e-3, atol=1e-5)


def test_bfloat16(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        "intermediate-block-unet", training={**ONE_STEP, "precision": "bf16-mixed"}
    )
    learn(tmp_path / "run", recipe, songs)
    weights = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["model"]
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}


def test_other_weights_to_begin_with(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe("open-unmix", training=ONE_STEP, optimiser={"lr": 1e-9})
    learn(tmp_path / "first", recipe, songs)
    other = replace(recipe, training=replace(recipe.training, seed=7))
    alone = replace(other, model=replace(other.model, stems=("drums",), config={}))
    learn(tmp_path / "second", alone, songs, begins_from=str(tmp_path / "first"))
    first, second = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["model"]
        for name in ("first", "second")
    )
    key = "core.nets.drums.fc2.weight"
    torch.testing.assert_close(second[key], first[key], rtol=0, atol=1e-6)
    assert not any("vocals" in name for name in second)
    lasaft = make_recipe("lasaft", training=ONE_STEP)
    with pytest.raises(UsageError, match="is a OpenUnmix, and the recipe trains lasaft"):
        learn(tmp_path / "third", lasaft, songs, begins_from=str(tmp_path / "first"))


@pytest.mark.parametrize(
    ("sections", "kind", "message"),
    [
        ({"model": {"stems": ["piano"]}}, UsageError, "'piano'.*whose stems are"),
        ({"model": {"stems": ["drums", "drums"]}}, UsageError, "name one twice"),
        ({"model": {"config": {"hidden": 3}}}, UnknownNameError, "no configuration key 'hidden'"),
        ({"model": {"architecture": "open-umx"}}, UnknownNameError, "no architecture"),
        ({"loss": {"terms": ["sdr"]}}, UnknownNameError, "no loss 'sdr'"),
        ({"data": {"excerpt_s": 0.001}}, UsageError, "0.001 s is too short"),
        ({"training": {"batch": 1000}}, UsageError, "does not make a batch of 1000"),
        ({"training": {"accumulate": 50}}, UsageError, "fewer than the 50"),
        ({"model": {"sample_rate": 8000}}, UsageError, "44100 Hz, and the model 8000 Hz"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_there(
    sections: dict[str, dict[str, object]],
    kind: type[Exception],
    message: str,
    songs: Path,
    tmp_path: Path,
) -> None:
    recipe = make_recipe("open-unmix", **sections)
    with pytest.raises(kind, match=message):
        learn(tmp_path / "run", recipe, songs)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("split", "purpose"), [("train", "training"), ("valid", "validation")])
def test_an_empty_split_is_refused(split: str, purpose: str, tmp_path: Path) -> None:
    counts = {"train": 1, "valid": 1, split: 0}
    songs = write_songs(tmp_path / "songs", **counts, seconds=0.1)
    with pytest.raises(DatasetError, match=f"no track for {purpose}"):
        learn(tmp_path / "run", make_recipe("open-unmix"), songs)
    assert not (tmp_path / "run").exists()


def test_no_two_steps_draw_the_same(songs: Path, tmp_path: Path) -> None:
    seeds = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            seeds.append(torch.initial_seed())

    recipe = make_recipe("open-unmix")
    train(Request(tmp_path / "run", recipe, songs, machines=Machines("cpu")), note)
    assert len(seeds) == len(set(seeds)) == 6


def test_a_place_that_takes_nothing_more_is_told(songs: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")

    def block(event: Event) -> None:
        # A folder where the next checkpoint is to go.
        if isinstance(event, Stepped) and event.step == 2:
            run.last.unlink()
            run.last.mkdir()

    request = Request(run.path, make_recipe("open-unmix"), songs, machines=Machines("cpu"))
    with pytest.raises(OutputError, match=r"last\.ckpt cannot be written") as refused:
        train(request, block)
    assert "STEMSPLIT_CACHE" not in refused.value.help
    assert not list(run.path.rglob("*.part"))


def test_without_a_data_set_it_is_the_sample_decoded_once(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    request = Request(tmp_path / "run", make_recipe("open-unmix", training=ONE_STEP), offline=True)
    request = replace(request, machines=Machines("cpu"))
    with pytest.raises(OfflineError, match="sample is not on this machine"):
        train(request)
    # As the sample is: a train folder, in which MUSDB18's own validation tracks are.
    sample = tmp_path / "cache/datasets/musdb18-7s"
    for place, name in (("train 0", "train/A"), ("valid 0", "train/Leaf - Summerghost")):
        split = place.split()[0]
        shutil.copytree(songs / split / place, sample / name)
    told: list[Event] = []
    train(request, told.append)
    assert isinstance(told[0], Noted)
    assert "no --root: training on the sample" in told[0].text
    began = next(event for event in told if isinstance(event, Began))
    assert (began.train_tracks, began.valid_tracks) == (1, 1)
    decoded = sample.with_name("musdb18-7s-wav") / "train/A/vocals.wav"
    before = decoded.stat().st_mtime_ns
    train(replace(request, run=tmp_path / "second"))
    assert decoded.stat().st_mtime_ns == before


def test_two_do_not_write_one_folder(songs: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(UsageError, match="another training is writing"):
        learn(run.path, make_recipe("open-unmix"), songs)


def test_a_run_without_a_model_yet_says_so(songs: Path, tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").create(make_recipe("open-unmix"), {})
    with pytest.raises(CheckpointError, match="has not exported a model yet"):
        open_run(tmp_path / "run", tmp_path)


def test_the_fast_mode_goes_through_everything(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe("spleeter", training={"max_epochs": 500}, validation={"tracks": -1})
    told = learn(tmp_path / "run", shorten(recipe), songs)
    (over,) = [event for event in told if isinstance(event, Validated)]
    assert "usdr" in over.metrics
    assert len([event for event in told if isinstance(event, Stepped)]) == 3


def test_values_for_a_stem_that_there_is_none_of_are_told(songs: Path, tmp_path: Path) -> None:
    recipe = make_recipe("open-unmix", training=ONE_STEP)
    named = ("drms", "vocals", "piano", "no_drums")
    told = learn(tmp_path / "run", recipe, songs, stem_tables=named)
    (note,) = [event.text for event in told if isinstance(event, Noted)]
    assert "'drms'" in note
    assert "drums" in note


def test_mono_files_are_heard_on_both_channels(songs: Path, tmp_path: Path) -> None:
    for path in songs.rglob("*.wav"):
        samples, rate = soundfile.read(path)
        target = tmp_path / "mono" / path.relative_to(songs)
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples[:, 0], rate)
    recipe = make_recipe("open-unmix", training=ONE_STEP, validation={"tracks": 1})
    told = learn(tmp_path / "run", recipe, tmp_path / "mono")
    assert isinstance(told[-1], Validated)
    assert json.loads((tmp_path / "run/run.json").read_text())["stems"] == ["drums", "vocals"]
