"""Weights of a published layout, opened by their path: a tiny registry stands for the real one."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from stemsplit.errors import CheckpointError, UnsafeWeightsError
from stemsplit.models.base import StemModel
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.spleeter import Spleeter, SpleeterConfig
from stemsplit.weights import recognise
from stemsplit.weights.build import build_model
from stemsplit.weights.convert import Checkpoint, read_checkpoint
from stemsplit.weights.described import brought
from stemsplit.weights.entry import ModelEntry
from stemsplit.weights.load import load_model
from stemsplit.weights.own_models import find_entry
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

STEMS = ("vocals", "drums")
TABLE = """
[models.{name}]
description = "published, for tests"
architecture = "open-unmix"
stems = ["vocals", "drums"]
config = {{ n_fft = 64, hop_length = 16, hidden_size = {hidden} }}
"""
FILE = """
[[models.{name}.files]]
source = "https://example.org/{stem}-1234.pth"
format = "torch-pickle"
keymap = "open-unmix"
stem = "{stem}"
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two models of one architecture that their shapes tell apart."""
    path = tmp_path / "registry.toml"
    text = ""
    for name, hidden in (("small", 8), ("large", 12)):
        text += TABLE.format(name=name, hidden=hidden)
        text += "".join(FILE.format(name=name, stem=stem) for stem in STEMS)
    path.write_text(text)
    return Registry.load([path])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of models whose networks are built from here on, as they are."""
    names: list[str] = []

    def build(entry: ModelEntry) -> StemModel:
        names.append(entry.name)
        return build_model(entry)

    monkeypatch.setattr(recognise, "build_model", build)
    return names


def write_weights(folder: Path, hidden: int, **names: str) -> OpenUnmix:
    """Save each stem's network as the authors do: names[stem] is its file."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(hidden)
    model = OpenUnmix(OpenUnmixConfig(STEMS, n_fft=64, hop_length=16, hidden_size=hidden)).eval()
    for stem, name in names.items():
        net = model.core.get_submodule(f"nets.{stem}")
        torch.save(net.state_dict(), folder / name)
    return model


def same_sound(one: nn.Module, other: nn.Module) -> bool:
    mixture = torch.randn(1, 2, 5000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one(mixture), other(mixture))


@pytest.mark.parametrize(("hidden", "known"), [(8, "small"), (12, "large")])
def test_a_folder_is_known_by_its_tensors(
    tmp_path: Path, registry: Registry, hidden: int, known: str
) -> None:
    folder = tmp_path / "Mine"
    model = write_weights(folder, hidden, vocals="vocals-best.pth", drums="my_drums.pth")
    (folder / "notes.txt").write_text("nothing")
    entry = find_entry(folder, registry)
    assert entry.name == "mine"
    assert entry.description == f"Mine, recognised as weights of {known}: vocals, drums"
    assert all(file.sha256 is None for file in entry.files)
    loaded = load_model(folder, registry=registry, store=Store(tmp_path / "cache", offline=True))
    assert same_sound(loaded, model)


def test_of_two_that_fit_the_one_that_a_file_is_called_as_is_taken(
    tmp_path: Path, built: list[str]
) -> None:
    text = ""
    for name in ("first", "second"):
        text += TABLE.format(name=name, hidden=8)
        text += "".join(FILE.format(name=name, stem=stem) for stem in STEMS)
        text = text.replace("-1234", f"-{name}")
    (tmp_path / "registry.toml").write_text(text)
    registry = Registry.load([tmp_path / "registry.toml"])
    write_weights(tmp_path / "own", 8, drums="drums-second.pth", vocals="vocals-mine.pth")
    entry = find_entry(tmp_path / "own", registry)
    assert entry.description == "own, recognised as weights of second: vocals, drums"
    assert find_entry(tmp_path / "own" / "vocals-mine.pth", registry).description.endswith(
        "recognised as weights of first: vocals"
    )
    assert built[0] == "second"
    assert built[-1] == "first"


def test_a_network_that_has_no_use_for_a_tensor_is_built_last(
    tmp_path: Path, built: list[str]
) -> None:
    text = (
        '[models.ratio]\ndescription = "x"\narchitecture = "spleeter"\nstems = ["vocals"]\n'
        "config = { widths = [2, 3, 4, 5, 6, 7] }\n[[models.ratio.files]]\n"
        'source = "https://example.org/vocals.pth"\nformat = "torch-pickle"\n'
        'keymap = "spleeter-torch"\nstem = "vocals"\n'
    )
    text += TABLE.format(name="small", hidden=8)
    text += "".join(FILE.format(name="small", stem=stem) for stem in STEMS)
    (tmp_path / "registry.toml").write_text(text)
    registry = Registry.load([tmp_path / "registry.toml"])
    write_weights(tmp_path / "own", 8, vocals="vocals.pth")
    assert find_entry(tmp_path / "own", registry).description.endswith("of small: vocals")
    assert built[-1] == "small"
    assert "ratio" not in built
    built.clear()
    write_weights(tmp_path / "own", 12, vocals="vocals.pth")
    with pytest.raises(CheckpointError, match="the nearest is umx, but"):
        find_entry(tmp_path / "own", registry)
    assert built.index("small") < built.index("ratio")


def test_one_file_is_one_stem_where_each_has_a_network(tmp_path: Path, registry: Registry) -> None:
    model = write_weights(tmp_path / "own", 12, drums="drums-1234.pth")
    path = tmp_path / "own" / "drums-1234.pth"
    assert find_entry(path, registry).stems == ("drums",)
    loaded = load_model(path, registry=registry, store=Store(tmp_path / "cache", offline=True))
    assert same_sound(loaded, model.only(["drums"]))


def test_a_file_that_does_not_say_its_stem(tmp_path: Path, registry: Registry) -> None:
    write_weights(tmp_path / "own", 8, drums="best.pth")
    with pytest.raises(
        CheckpointError, match=r"small, and best\.pth may be its vocals or its drums"
    ):
        find_entry(tmp_path / "own", registry)


def test_two_files_of_one_stem(tmp_path: Path, registry: Registry) -> None:
    write_weights(tmp_path / "own", 8, drums="drums.pth")
    write_weights(tmp_path / "own", 8, drums="old-drums.pth")
    with pytest.raises(
        CheckpointError, match=r"small, and drums\.pth and old-drums\.pth are the same part"
    ):
        find_entry(tmp_path / "own", registry)


def test_other_shapes_say_which(tmp_path: Path, registry: Registry) -> None:
    write_weights(tmp_path / "own", 16, drums="drums.pth")
    with pytest.raises(CheckpointError, match=r"is umx, but .* have another shape, such as core"):
        find_entry(tmp_path / "own", registry)


def test_networks_that_a_file_is_not_of_are_let_go(tmp_path: Path, registry: Registry) -> None:
    write_weights(tmp_path / "own", 12, drums="drums.pth")
    gc.collect()
    gc.disable()
    try:
        assert find_entry(tmp_path / "own", registry).files[0].stem == "drums"
        assert not [one for one in gc.get_objects() if type(one) is OpenUnmix]
    finally:
        gc.enable()


def test_other_networks_are_no_known_model(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"no model that is known\n"):
        find_entry(path, registry)


def test_a_network_that_needs_all_stems_says_what_is_missing(tmp_path: Path) -> None:
    text = (
        '[models.ratio]\ndescription = "x"\narchitecture = "spleeter"\n'
        'stems = ["vocals", "drums"]\nconfig = { widths = [2, 3, 4, 5, 6, 7] }\n'
    )
    for stem in STEMS:
        text += (
            f'[[models.ratio.files]]\nsource = "https://example.org/{stem}.pth"\n'
            f'format = "torch-pickle"\nkeymap = "spleeter-torch"\nstem = "{stem}"\n'
        )
    (tmp_path / "registry.toml").write_text(text)
    registry = Registry.load([tmp_path / "registry.toml"])
    net = Spleeter(SpleeterConfig(STEMS, widths=(2, 3, 4, 5, 6, 7))).core.get_submodule(
        "nets.drums"
    )
    names = {}
    for name, value in net.state_dict().items():
        part, level, *rest = name.split(".")
        if part == "out":
            names[f"up7.0.{level}"] = value
            continue
        number = int(level) + 1
        kinds = {
            "down.conv": f"down{number}_conv.1",
            "down.norm": f"down{number}_act.0",
            "up.conv": f"up{number}.0",
            "up.norm": f"up{number}.3",
        }
        names[f"{kinds[f'{part}.{rest[0]}']}.{rest[1]}"] = value
    torch.save(names, tmp_path / "drums.pth")
    with pytest.raises(CheckpointError, match="the nearest is ratio, without its vocals") as caught:
        find_entry(tmp_path / "drums.pth", registry)
    assert "into one folder" in caught.value.help


class Poison:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit",))


def test_a_poisoned_file_is_refused_by_the_name_it_asks_for(
    tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "vocals.pth"
    path.write_bytes(pickle.dumps({"fc1.weight": Poison()}))
    with pytest.raises(UnsafeWeightsError, match=r"builtins\.exec"):
        find_entry(path, registry)


def test_a_file_that_is_refused_is_read_once_for_what_is_let_pass(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str]] = []

    def read(path: Path, format: str, *, inert: frozenset[str]) -> Checkpoint:
        asked.append(inert)
        return read_checkpoint(path, format, inert=inert)

    monkeypatch.setattr(brought, "read_checkpoint", read)
    (tmp_path / "vocals.pth").write_bytes(pickle.dumps({"fc1.weight": Poison()}))
    with pytest.raises(UnsafeWeightsError):
        find_entry(tmp_path / "vocals.pth", registry)
    assert len(asked) == len(set(asked)) > 1


def test_a_folder_without_weights(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights in a format that is known"):
        find_entry(tmp_path / "empty", registry)
