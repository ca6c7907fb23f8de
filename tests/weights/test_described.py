"""Weights that are described by what their training wrote down, in sizes that nobody published.

One file, for the layouts share the ways in which a description can be wrong.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from stemsplit.errors import CheckpointError
from stemsplit.models.base import StemModel
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.unet import IntermediateBlockUNet, IntermediateBlockUNetConfig
from stemsplit.separation.plan import MAX_OVERLAP
from stemsplit.separation.separator import Separator
from stemsplit.weights.convert import read_checkpoint
from stemsplit.weights.described.lightning import _check_sizes
from stemsplit.weights.described.values import LARGEST, read_yaml
from stemsplit.weights.entry import ModelEntry
from stemsplit.weights.keymaps import build_keymap
from stemsplit.weights.load import load_model
from stemsplit.weights.recognise import recognise
from stemsplit.weights.registry import Registry, find_registry_files
from stemsplit.weights.store import Store

GOLDENS = Path(__file__).parent.parent / "goldens"


@cache
def read_registry() -> Registry:
    """The shipped models: none of them has any of these sizes."""
    return Registry.load(find_registry_files()[:1])


def recognise_alone(path: Path) -> ModelEntry:
    """Recognise weights beside one known model of each layout; small ones, as all are built."""
    entries = read_registry().entries
    small = {
        "umxhq": {"hidden_size": 4},
        "bsrnn": {"splits": (((4000, 4000),),), "layers": 1},
        "tfc-tdf": {"blocks": 3, "layers": 1},
        "lasaft-2020": {"blocks": 3, "layers": 1, "transform": "none"},
    }
    known = {name: replace(entries[name], config=config) for name, config in small.items()}
    return recognise(path, known)


def describe(path: Path) -> str:
    return recognise_alone(path).description


def load(path: Path, cache: Path) -> StemModel:
    model = load_model(path, registry=read_registry(), store=Store(cache, offline=True))
    assert isinstance(model, StemModel)
    return model


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def read_golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


# Open-Unmix


def write_umx(folder: Path, *targets: str, **sizes: Any) -> OpenUnmix:
    """Save a network per target, and both kinds of JSON files, as the original's training does."""
    folder.mkdir(exist_ok=True)
    values = {"n_fft": 64, "hop_length": 16, "hidden_size": 6, "channels": 1} | sizes
    config = OpenUnmixConfig(targets, sample_rate=16000, bandwidth_hz=5000, **values)
    torch.manual_seed(0)
    model = OpenUnmix(config).eval()
    args = {
        "nfft": config.n_fft,
        "nhop": config.hop_length,
        "nb_channels": config.channels,
        "hidden_size": config.hidden_size,
        "bandwidth": 5000,
    }
    for target in targets:
        state = model.core.get_submodule(f"nets.{target}").state_dict()
        torch.save(state, folder / f"{target}.pth")
        torch.save({"epoch": 3, "state_dict": state}, folder / f"{target}.chkpnt")
        (folder / f"{target}.json").write_text(json.dumps({"args": args, "best_epoch": 2}))
    transform = {key: args[key] for key in ("nfft", "nhop", "nb_channels")}
    (folder / "separator.json").write_text(json.dumps({**transform, "sample_rate": 16000.0}))
    return model


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    values.get("args", values).update(changes)
    path.write_text(json.dumps(values))


@torch.no_grad()
def test_open_unmix_with_targets_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "Run"
    model = write_umx(folder, "piano", "lead vocals")
    (folder / "piano.pth").rename(folder / "piano-0a1b2c3d.pth")
    assert describe(folder) == (
        "Run, recognised as weights of the architecture open-unmix by its lead vocals.json and "
        "piano.json: lead vocals, piano"
    )
    loaded = load(folder, tmp_path / "cache")
    assert (loaded.channels, loaded.sample_rate, loaded.stems) == (
        1,
        16000,
        ("lead vocals", "piano"),
    )
    mixture = torch.randn(1, 1, 3000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(mixture), model.only(["lead vocals", "piano"])(mixture))


@torch.no_grad()
def test_one_target_of_several(tmp_path: Path) -> None:
    model = write_umx(tmp_path / "run", "vocals", "vocals2", channels=2, hidden_size=10)
    path = tmp_path / "run" / "vocals2.pth"
    assert describe(path).endswith("by its vocals2.json: vocals2")
    mixture = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(0))
    loaded = load(path, tmp_path / "cache")
    assert torch.equal(loaded(mixture), model.only(["vocals2"])(mixture))


def test_without_what_the_targets_share_their_own_arguments_count(tmp_path: Path) -> None:
    write_umx(tmp_path / "run", "vocals", hop_length=32)
    (tmp_path / "run" / "separator.json").unlink()
    state = torch.load(tmp_path / "run" / "vocals.pth")
    for kept, rate in ((None, 44100), (torch.tensor(16000.0), 16000)):
        torch.save(
            state if kept is None else {**state, "sample_rate": kept},
            tmp_path / "run" / "vocals.pth",
        )
        entry = recognise_alone(tmp_path / "run")
        assert (entry.config["hop_length"], entry.sample_rate) == (32, rate)
    assert (entry.licence, entry.scores, entry.verified) == ("not stated", (), None)


def test_tensors_that_are_not_what_the_json_says(tmp_path: Path) -> None:
    write_umx(tmp_path / "run", "vocals")
    edit_json(tmp_path / "run" / "vocals.json", hidden_size=8)
    message = (
        r"run: vocals\.pth should be open-unmix as its vocals\.json says, but \d+ tensors have "
        r"another shape, such as core\.nets\.vocals\.bn1\.bias"
    )
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(tmp_path / "run")
    assert "keep the vocals.json" in caught.value.help


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a", {"hidden_size": "8"}, r"a\.json: args\.hidden_size is '8' and has to be a whole"),
        ("a", {"hidden_size": True}, r"args\.hidden_size is True and has to be"),
        ("a", {"hidden_size": 10**30}, r"args\.hidden_size is a very large number and has"),
        ("a", {"nfft": [[0] * 99]}, r"args\.nfft is a list of 1 and has to be"),
        ("a", {"hidden_size": 8}, r"hidden_size is 8 in a\.json and 6 in b\.json"),
        ("separator", {"nfft": 128}, r"separator\.json: nfft is 128, and 64 in [ab]\.json"),
        ("separator", {"sample_rate": "fast"}, r"separator\.json: sample_rate is 'fast'"),
        ("separator", {"sample_rate": 16000.5}, r"sample_rate is 16000\.5 Hz"),
        ("separator", {"nhop": 64}, r"nhop is 64 and has to be a whole number from 1 to 63"),
        ("separator", {"nhop": None}, r"separator\.json: nhop is None"),
    ],
)
def test_json_with_wrong_values(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    write_umx(tmp_path / "run", "a", "b")
    edit_json(tmp_path / "run" / f"{name}.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        describe(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json is not JSON: "),
        ("[" * 100_000, r"a\.json is not JSON: "),
        ("[1, 2]", r"a\.json holds a list of 2 in place of a mapping"),
        ("{}", r"a\.json: args is missing"),
        ('{"args": 3}', r"a\.json: args is 3 and has to be a mapping"),
        ('{"args": {"nfft": 64}}', r"a\.json: args\.nb_channels is missing"),
        ('{"args": {"nfft": ' + "9" * 9000 + "}}", r"a\.json"),
        ("\x00\xff", r"a\.json is not text"),
        (" " * (LARGEST + 1), r"a\.json has more than 1000000 bytes"),
    ],
)
def test_damaged_json(tmp_path: Path, text: str, message: str) -> None:
    write_umx(tmp_path / "run", "a")
    (tmp_path / "run" / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(tmp_path / "run")
    assert len(caught.value.message) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("target", ["train", "a.b"])
def test_a_target_that_cannot_be_the_name_of_a_stem(tmp_path: Path, target: str) -> None:
    write_umx(tmp_path / "run", "a")
    for file in list((tmp_path / "run").glob("a.*")):
        file.rename(file.with_name(target + file.suffix))
    with pytest.raises(CheckpointError, match=f"'{target}' cannot be the name of a stem"):
        describe(tmp_path / "run")


def test_targets_with_two_files_or_none_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_umx(folder, "a", "b")
    (folder / "b.json").unlink()
    with pytest.raises(CheckpointError, match=r"b\.pth has no JSON file of its own"):
        describe(folder)
    (folder / "b.pth").rename(folder / "a-older.pth")
    with pytest.raises(CheckpointError, match=r"a-older\.pth and a\.pth .* described by a\.json"):
        describe(folder)


def test_a_json_file_beside_other_weights_is_none_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no model that is known"):
        describe(tmp_path / "a.pth")


# BandSplitRNN-PyTorch


def compose_hparams(**changes: Any) -> dict[str, Any]:
    """Return what hparams.yaml says of the goldens; "model.fc_dim" and such name what differs."""
    transform = {"n_fft": 16, "win_length": 16, "hop_length": 4}
    values: dict[str, Any] = {
        "model": {
            "sr": 44100,
            "n_fft": 16,
            "bandsplits": [[4000, 4000], [12000, 8000]],
            "t_timesteps": 25,
            "bottleneck_layer": "rnn",
            "fc_dim": 8,
            "rnn_dim": 5,
            "rnn_type": "LSTM",
            "bidirectional": True,
            "num_layers": 1,
            "mlp_dim": 6,
            "return_mask": False,
            "complex_as_channel": True,
            "is_mono": False,
        },
        "featurizer": {
            "direct_transform": {"_target_": "Spectrogram", **transform, "power": None},
            "inverse_transform": {"_target_": "InverseSpectrogram", **transform},
        },
        "audio_params": {
            "target": "vocals",
            "sr": 44100,
            "win_size": 80.5 / 44100,
            "hop_size": 1.5 / 44100,
            "window": None,
        },
    }
    for place, value in changes.items():
        *sections, key = place.split(".")
        table = values
        for section in sections:
            table = table[section]
        table[key] = value
        if value is DELETED:
            del table[key]
    return values


DELETED = object()
VARIANTS: dict[str, dict[str, Any]] = {
    "rnn": {},
    "attention": {
        "model.bottleneck_layer": "att",
        "model.rnn_type": "lstm",
        "audio_params.window": "hann",
    },
    "gru": {
        "model.rnn_type": "GRU",
        "model.bidirectional": False,
        "model.return_mask": True,
        "model.is_mono": True,
    },
}


def write_bsrnn(folder: Path, variant: str = "rnn", name: str = "", **changes: Any) -> Path:
    """Lay a golden and its description out as the original's saved models; return the weights."""
    folder.mkdir(parents=True)
    weights = folder / f"{name or folder.name}.pt"
    shutil.copy(GOLDENS / f"bsrnn_{variant}.pt", weights)
    values = compose_hparams(**{**VARIANTS[variant], **changes})
    (folder / "hparams.yaml").write_text(yaml.safe_dump(values))
    return weights


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("as_file", [False, True])
@torch.no_grad()
def test_a_saved_model_sounds_as_the_original(tmp_path: Path, variant: str, as_file: bool) -> None:
    weights = write_bsrnn(tmp_path / "bass", variant)
    path = weights if as_file else weights.parent
    assert describe(path) == (
        f"{path.name}, recognised as weights of the architecture bsrnn by its hparams.yaml: bass"
    )
    model = load(path, tmp_path / "cache")
    golden = read_golden("bsrnn")
    got = Separator(model, framing="original").separate(golden[f"{variant}_mixture"])["bass"]
    assert relative(got, golden[f"{variant}_song"]) < 5e-6


def test_a_folder_of_saved_models_is_one_of_all_its_stems(tmp_path: Path) -> None:
    for stem in ("piano", "drums", "vocals"):
        write_bsrnn(tmp_path / "saved" / stem)
    (tmp_path / "saved" / "notes").mkdir()
    model = load(tmp_path / "saved", tmp_path / "cache")
    assert model.stems == ("vocals", "drums", "piano")
    mixture = read_golden("bsrnn")["rnn_mixture"]
    heard = Separator(model, framing="original").separate(mixture)
    for stem in model.stems:
        assert relative(heard[stem], read_golden("bsrnn")["rnn_song"]) < 5e-6


def test_saved_models_that_differ(tmp_path: Path) -> None:
    write_bsrnn(tmp_path / "saved" / "bass")
    write_bsrnn(tmp_path / "saved" / "drums", **{"model.num_layers": 2})
    message = r"layers is 1 in bass/hparams\.yaml and 2 in drums/hparams\.yaml"
    with pytest.raises(CheckpointError, match=message):
        describe(tmp_path / "saved")


def test_bands_that_are_not_said_are_those_published_for_the_stem(tmp_path: Path) -> None:
    changes = {"model.bandsplits": DELETED, "model.n_fft": 2048, "model.t_timesteps": 263}
    changes |= {"audio_params.win_size": 3, "audio_params.hop_size": 0.5}
    changes |= {"model.num_layers": 1}
    for way in ("direct_transform", "inverse_transform"):
        sizes = {"n_fft": 2048, "win_length": 2048, "hop_length": 512}
        changes |= {f"featurizer.{way}.{key}": value for key, value in sizes.items()}
    path = write_bsrnn(tmp_path / "bass", **changes)
    # The tensors are another network's: those of the 30 bands for the bass are missing.
    with pytest.raises(
        CheckpointError, match=r"tensors are missing, such as core\.nets\.bass"
    ) as caught:
        describe(path)
    assert "hparams.yaml says" in caught.value.message


def write_run(run: Path) -> Path:
    """Lay out what is left of a training: settings that refer to each other, and a checkpoint."""
    (run / "tb_logs").mkdir(parents=True)
    (run / "weights").mkdir()
    values = compose_hparams(**{"model.is_mono": "${..train_dataset.is_mono}"})
    values["test_dataset"] = {
        **values.pop("audio_params"),
        "in_fp": "${oc.env:MUSDB_DIR}",
        "target": "${..train_dataset.target}",
        "sr": "${model.sr}",
    }
    values["train_dataset"] = {"target": "flute", "is_mono": False, "file_dir": "/data"}
    (run / "tb_logs" / "hparams.yaml").write_text(yaml.safe_dump(values))
    path = run / "weights" / "epoch07-val_loss0.12.ckpt"
    shutil.copy(GOLDENS / "bsrnn.ckpt", path)
    return path


@pytest.mark.parametrize("as_file", [False, True])
def test_a_training_run(tmp_path: Path, as_file: bool) -> None:
    path = write_run(tmp_path / "run")
    model = load(path if as_file else tmp_path / "run", tmp_path / "cache")
    golden = read_golden("bsrnn")
    got = Separator(model, framing="original").separate(golden["rnn_mixture"])["flute"]
    assert relative(got, golden["raw_song"]) < 5e-6


def test_a_training_run_with_several_checkpoints(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    shutil.copy(path, path.with_name("last.ckpt"))
    with pytest.raises(CheckpointError, match="holds 2 files of weights for one hparams") as caught:
        describe(tmp_path / "run")
    assert "give one of them" in caught.value.help


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model", DELETED, "model is missing"),
        ("model.fc_dim", DELETED, r"model\.fc_dim is missing"),
        ("model.fc_dim", 8.0, r"model\.fc_dim is 8\.0 and has to be a whole number"),
        ("model.fc_dim", "${..nothing.at_all}", r"model\.fc_dim refers to 'nothing\.at_all'"),
        ("model.fc_dim", "${.fc_dim}", r"model\.fc_dim refers to itself"),
        ("model.fc_dim", "${....fc_dim}", r"model\.fc_dim refers to 'fc_dim', which is not there"),
        ("model.num_layers", 10**9, r"model\.num_layers is 1000000000 and has to be"),
        ("model.rnn_type", "lstm", r"model\.rnn_type is 'lstm' and has to be 'LSTM' or 'GRU'"),
        ("model.bottleneck_layer", "conv", r"bottleneck_layer is 'conv' and has to be 'rnn' or"),
        ("model.bidirectional", 1, r"model\.bidirectional is 1 and has to be true or false"),
        ("model.complex_as_channel", False, r"complex_as_channel is False, which the original"),
        ("model.dropout", 0.1, r"model\.dropout is not a key that is known"),
        ("model.bandsplits", "V7", r"model\.bandsplits is 'V7' and has to be a list of pairs"),
        ("model.bandsplits", [[4000]], r"model\.bandsplits\[0\] is a list of 1 and has to be two"),
        ("model.bandsplits", [[4000, 0]], r"model\.bandsplits\[0\]"),
        ("model.bandsplits", [[4000, 400], [300, 100]], "has ends that do not rise"),
        ("model.bandsplits", [[40000, 1]], "makes 40000 bands"),
        ("model.bandsplits", [[4000, 100]], r"says is no network: .* band \d+ of bass has no bins"),
        ("model.t_timesteps", 26, r"win_size comes to windows of 96 samples, and .*26, to 100"),
        ("model.sr", 48000, r"audio_params\.sr is 44100, and model\.sr is 48000"),
        ("featurizer.direct_transform.power", 2.0, r"direct_transform\.power is 2\.0"),
        ("featurizer.direct_transform.hop_length", 8, "hop_length is 4, after one of 8"),
        ("featurizer.inverse_transform.win_length", 8, r"inverse_transform\.win_length is 8, and"),
        ("featurizer.inverse_transform.normalized", True, "normalized is True, and only False"),
        ("audio_params.window", "hamming", r"audio_params\.window is 'hamming' and has to be None"),
        ("audio_params.win_size", float("inf"), r"audio_params\.win_size is inf and has to be"),
        ("audio_params.win_size", float("nan"), r"audio_params\.win_size is nan and has to be"),
        ("audio_params.hop_size", 1, r"hop_size comes to steps of 44100 samples"),
    ],
)
def test_hparams_that_are_no_network(
    tmp_path: Path, place: str, value: object, message: str
) -> None:
    path = write_bsrnn(tmp_path / "bass", **{place: value})
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(path)
    assert "hparams.yaml" in caught.value.message


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    path = write_bsrnn(tmp_path / "bass", "attention", **{"model.fc_dim": 6})
    with pytest.raises(CheckpointError, match=r"model\.fc_dim does not divide by 4"):
        describe(path)


BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: !!python/object/apply:os.system ['touch run']", "is not YAML of plain values: "),
        ("model: !!python/name:os.system", "is not YAML of plain values: "),
        ("model: [", "is not YAML of plain values: "),
        ("model: !!int ''", "is not YAML of plain values: "),
        ("model: !!timestamp x", "is not YAML of plain values: "),
        ("[" * 900_000, "has more than 32 levels"),
        (BOMB, r"has aliases \(\*name\)"),
        ("just a text", "holds 'just a text' in place of a mapping"),
        ("", "holds None in place of a mapping"),
        ("? [1, 2]\n: 3", "is not YAML of plain values: "),
        ("model: 3", "model is 3 and has to be a mapping"),
        ("#" * (LARGEST + 1), "has more than 1000000 bytes"),
    ],
)
def test_hostile_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = write_bsrnn(tmp_path / "bass")
    (tmp_path / "bass" / "hparams.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(path)
    assert "hparams.yaml" in caught.value.message
    assert len(caught.value.message) < 400 + len(str(tmp_path))


def test_a_description_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: "):
        read_yaml(tmp_path)


# Lightning checkpoints


@cache
def read_lightning(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a golden's state dict and its hyper-parameters, with pieces that 5000 samples fit."""
    inert = build_keymap("lasaft", None, ("vocals", "drums", "bass", "other")).inert
    checkpoint = read_checkpoint(GOLDENS / f"{name}.ckpt", "torch-pickle", inert=inert)
    prefix = "state_dict."
    state = {
        key.removeprefix(prefix): torch.from_numpy(array.copy())
        for key, array in checkpoint.arrays.items()
        if key.startswith(prefix)
    }
    prefix = "hyper_parameters."
    settings = {
        key.removeprefix(prefix): value
        for key, value in checkpoint.metadata.items()
        if key.startswith(prefix) and "loss" not in key
    }
    return state, {**settings, "num_frame": 1024}


def write_lightning(path: Path, name: str, **changes: Any) -> Path:
    state, settings = read_lightning(name)
    settings = {
        key: value for key, value in {**settings, **changes}.items() if value is not DELETED
    }
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": settings}, path)
    return path


@pytest.mark.parametrize("name", ["tfc", "tdf", "tdc", "tdc_rnn", "tfc_tdf"])
@torch.no_grad()
def test_a_unet_by_its_hyper_parameters(tmp_path: Path, name: str) -> None:
    path = write_lightning(tmp_path / "best.ckpt", f"unet_{name}", target_name="guitar")
    assert describe(path) == (
        "best.ckpt, recognised as weights of the architecture intermediate-block-unet by its "
        "hyper-parameters: guitar"
    )
    golden = read_golden(f"unet_{name}")
    model = load(path, tmp_path / "cache")
    assert relative(model.core(golden["planes"])[:, 0], golden["net"]) < 1e-5
    assert model(golden["song"][None])[0].isfinite().all()


@pytest.mark.parametrize("name", ["gpocm_lasaft", "gpocm_lightsaft", "gpocm", "film_tdf"])
@torch.no_grad()
def test_lasaft_by_its_hyper_parameters(tmp_path: Path, name: str) -> None:
    path = write_lightning(tmp_path / "best.ckpt", f"lasaft_{name}")
    assert describe(tmp_path).endswith(
        "of the architecture lasaft by its hyper-parameters: vocals, drums, bass, other"
    )
    golden = read_golden(f"lasaft_{name}")
    model = load(path, tmp_path / "cache")
    assert relative(model.core(golden["planes"]), golden["net"]) < 1e-5
    assert model(golden["song"][None])[0].isfinite().all()


@pytest.mark.parametrize(
    ("name", "key"), [("gpocm", "tfc_activation"), ("gpocm_lasaft", "tfc_tdf_activation")]
)
def test_lasaft_has_two_names_for_its_activation(tmp_path: Path, name: str, key: str) -> None:
    path = write_lightning(tmp_path / "a.ckpt", f"lasaft_{name}", **{key: "tanh"})
    assert recognise_alone(path).config["activation"] == "tanh"


def test_what_the_vocals_leave_is_named_and_what_others_leave_is_not(tmp_path: Path) -> None:
    for stem, residual in (("vocals", "accompaniment"), ("bass", None)):
        assert recognise_alone(write_bsrnn(tmp_path / stem)).residual == residual


@pytest.mark.parametrize("levels", ["[1]", [1], (1,)])
def test_levels_that_halve_frames_as_a_text_or_a_list(tmp_path: Path, levels: object) -> None:
    path = write_lightning(tmp_path / "a.ckpt", "unet_tfc", t_down_layers=levels)
    assert recognise_alone(path).config["time_levels"] == (1,)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unet_tfc", {"num_frame": 32}, r"num_frame is 32, at 16 samples each: too short"),
        ("unet_tfc", {"num_frame": 1023}, r"num_frame is 1023, which does not halve"),
        ("unet_tfc", {"t_down_layers": "[5]"}, r"t_down_layers has a level that is not among"),
        ("unet_tfc", {"t_down_layers": "[[[1"}, r"t_down_layers is no list of levels"),
        ("unet_tfc", {"t_down_layers": "many"}, r"t_down_layers is no list of levels"),
        ("unet_tfc", {"n_blocks": 4}, r"n_blocks is 4, and has to be odd"),
        ("unet_tfc", {"n_blocks": 31}, r"n_blocks is 31, and has to be odd and to halve 32"),
        ("unet_tfc", {"tfc_activation": "swish"}, r"tfc_activation is 'swish' and has to be"),
        ("unet_tfc", {"unfreeze_stft_from": 3}, r"unfreeze_stft_from is 3, and a transform"),
        ("unet_tfc", {"target_name": 3}, r"target_name is 3 and has to be a text"),
        ("unet_tfc", {"target_name": "../x"}, r"'\.\./x' cannot be the name of a stem"),
        ("unet_tfc", {"internal_channels": 4}, r"should be .* as its hyper-parameters says?, but"),
        ("unet_tfc", {"kernel_size_t": 2**70}, r"kernel_size_t is a very large number"),
        ("lasaft_gpocm", {"control_input_dim": 2}, r"control_input_dim is 2, and only vocals"),
        ("lasaft_gpocm", {"pocm_type": "naive"}, r"pocm_type is 'naive' and has to be 'matmul'"),
        ("lasaft_film_tdf", {"film_type": "simple"}, r"film_type is 'simple' and has to be"),
        ("lasaft_film_tdf", {"condition_to": ["full"]}, r"condition_to is a list of 1 and"),
    ],
)
def test_hyper_parameters_that_are_no_network(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    path = write_lightning(tmp_path / "best.ckpt", name, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(path)
    assert "best.ckpt" in caught.value.message


def test_hyper_parameters_that_are_wrong_do_not_hide_a_known_model(tmp_path: Path) -> None:
    path = write_lightning(tmp_path / "best.ckpt", "unet_tfc_tdf", unfreeze_stft_from=3)
    entries = read_registry().entries
    config = {"n_fft": 64, "hop_length": 16, "layers": 2, "blocks": 5, "width": 4}
    config |= {"block": "tfc-tdf", "bottleneck_factor": 4, "bottleneck_least": 6}
    known = replace(entries["tfc-tdf"], config=config)
    assert recognise(path, {"tiny": known}).description == (
        "best.ckpt, recognised as weights of tfc-tdf: vocals, accompaniment"
    )
    with pytest.raises(CheckpointError, match="unfreeze_stft_from is 3"):
        describe(path)


class Refusals:
    """Stands for a checkpoint's values: notes what is refused."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def refuse(self, key: str, why: str) -> None:
        self.keys.append(key)


@pytest.mark.parametrize("windows", [38, 40, 42, 43, 44, 46])
def test_pieces_are_refused_where_the_network_would_share_too_much(windows: int) -> None:
    config = IntermediateBlockUNetConfig(
        ("vocals",), n_fft=windows * 128, hop_length=128, blocks=3, width=1, bottleneck_factor=64
    )
    refusals = Refusals()
    _check_sizes(refusals, {**vars(config), "time_levels": "all"}, halves_time=True)  # type: ignore[arg-type]  # all that it asks of them
    is_too_much = IntermediateBlockUNet(config).chunk.overlap >= MAX_OVERLAP
    assert refusals.keys == (["num_frame"] if is_too_much else [])
