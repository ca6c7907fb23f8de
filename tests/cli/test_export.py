"""`stemsplit export`: graphs that compute what torch does, a note beside them, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from stemsplit.backends import onnx_graph
from stemsplit.cli import main
from stemsplit.errors import DeviceError
from stemsplit.models.base import PerStem, StemModel
from stemsplit.models.catalogue import find_architecture
from stemsplit.separation import export as export_room
from stemsplit.separation.export import export_model
from stemsplit.weights.build import build_model, list_shapes
from stemsplit.weights.convert import write_safetensors
from stemsplit.weights.own_models import describe, find_entry
from stemsplit.weights.registry import Registry

pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")
"""Both are in the test extra."""

TABLE = """
default = "mine"
[models.mine]
description = "A small network."
architecture = "open-unmix"
stems = ["vocals", "drums"]
sample_rate = 8000
channels = 2
licence = "CC0"
source_page = "https://example.org/mine"
[models.mine.config]
n_fft = 256
hop_length = 64
hidden_size = 16
layers = 1
[[models.mine.files]]
source = "mine.safetensors"
format = "safetensors"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "own"
    own.mkdir()
    (own / "models.toml").write_text(TABLE, encoding="utf-8")
    kind = find_architecture("open-unmix")
    entry = find_entry(own, Registry.load())
    torch.manual_seed(0)
    model = kind(build_model(entry).config)
    state = model.state_dict()
    arrays = {name: state[name].numpy() for name in list_shapes(model)}
    write_safetensors(arrays, own / "mine.safetensors", describe(entry))
    return own


class Strange(torch.nn.Module):
    """A network with an operation that neither format has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x.flatten(0, 1) @ x.flatten(0, 1).transpose(1, 2))


def load(path: Path) -> StemModel:
    import stemsplit

    model = stemsplit.load_model(path)
    assert isinstance(model, StemModel)
    return model


@pytest.mark.parametrize("to", ["openvino", "onnx"])
@torch.no_grad()
def test_the_graph_computes_what_torch_does(
    folder: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "-m", str(folder), "--to", to, "-o", "out", "--stems", "drums"]) == 0
    said = capsys.readouterr().out.splitlines()
    note = json.loads(Path("out/model.json").read_text("utf-8"))
    (graph,) = note["graphs"]
    assert said[0].startswith(f"out/{graph['file']}: drums; ")
    assert said[1:] == ["out/model.json"]
    assert (note["stems"], note["sample_rate"], note["licence"]) == (["drums"], 8000, "CC0")
    assert graph["inputs"] == [{"name": "input_0", "shape": [1, 2, 129, None]}]
    assert graph["outputs"] == [{"name": "output_0", "shape": [1, 1, 2, 129, None]}]
    assert graph["transform"]["hop_length"] == 64
    assert graph["difference_from_torch"] < 1e-5
    model = load(folder).only(["drums"]).eval()
    (inputs,), _ = model.encode(torch.rand(1, 2, 5000))
    path = str(Path("out") / graph["file"])
    if to == "onnx":
        (got,) = onnxruntime.InferenceSession(path).run(None, {"input_0": inputs.numpy()})
    else:
        import openvino

        # On a processor with bf16, it would compute in that by itself.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        ready = openvino.Core().compile_model(path, "CPU", exact)
        got = ready({"input_0": inputs.numpy()})["output_0"]
    (expected,) = model.run_core((inputs,))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert {path.name for path in Path("out").iterdir()} <= {
        "mine.onnx", "mine.xml", "mine.bin", "model.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message", "help"),
    [
        (["--to", "onxx", "-o", "out"], "there is no graph format 'onxx'", "onnx"),
        (["--to", "onnx"], "-o is missing", "stemsplit export -m NAME"),
        (["-o", "out"], "--to is missing", "--to openvino"),
        (["--to", "onnx", "-o", "own"], "'own' is there already", "name another"),
        (["--to", "onnx", "-o", "own/models.toml"], "is there already", "name another"),
        (["--to", "onnx", "-o", "out", "--stems", "voice"], "there is no stem 'voice'", "vocals"),
        (["--to", "onnx", "-o", "out", "-m", "nowhere/"], "no file or folder 'nowhere/'", "path"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, help: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert main(["export", "-m", str(folder), *arguments]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert help in second
    assert sorted(Path().rglob("*")) == before


def test_a_graph_that_differs_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_entry(folder, Registry.load())
    monkeypatch.setattr(onnx_graph, "compare", lambda expected, got: 0.5)
    with pytest.raises(DeviceError, match=r"5\.0e-01 away from what torch computes"):
        export_model(load(folder), entry, "onnx", Path("out"))
    assert not [path for path in Path().iterdir() if "out" in path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the disk that is always full")
@pytest.mark.parametrize(
    ("target", "name", "saver", "said"),
    [
        # OpenVINO does not say why.
        ("openvino", "mine.bin", "save_graph", "'graphs' cannot be written"),
        ("onnx", "mine.onnx", "save_onnx", "no space is left for 'graphs'"),
    ],
)
def test_a_full_disk_is_told_as_such(
    target: str,
    name: str,
    saver: str,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save = getattr(export_room, saver)

    def save_to_full_disk(*arguments: object) -> object:
        place = arguments[-1]
        assert isinstance(place, Path)
        place.with_name(name).symlink_to("/dev/full")
        return save(*arguments)

    monkeypatch.setattr(export_room, saver, save_to_full_disk)
    before = sorted(folder.iterdir())
    assert main(["export", "-m", "own", "--to", target, "-o", "graphs"]) == 1
    assert said in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_what_cannot_be_written_so_leaves_nothing(folder: Path) -> None:
    entry = find_entry(folder, Registry.load())
    model = load(folder)
    model.core = PerStem({stem: Strange() for stem in model.stems})
    for to, missing in (("onnx", "linalg_eigvalsh"), ("openvino", "aten::linalg_eigvalsh")):
        with pytest.raises(DeviceError, match=missing):
            export_model(model, entry, to, Path("out"))
    assert not [path for path in Path().iterdir() if "out" in path.name]


def test_what_a_killed_export_left_goes_with_the_next_and_a_living_ones_stays(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", "-m", str(folder), "--to", "onnx", "-o", "graphs", "-q"]
    left = Path(".graphs.part")
    (left / "made").mkdir(parents=True)
    (left / "lock").touch()
    (left / "made" / "mine.onnx").write_bytes(b"half")
    with filelock.FileLock(left / "lock"):
        assert main(given) == 1
        assert "another process is writing 'graphs'" in capsys.readouterr().err
        assert (left / "made" / "mine.onnx").exists()
    assert main(given) == 0
    assert Path("graphs/model.json").is_file()
    assert not left.exists()


def test_a_place_below_a_file_is_told_as_such(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert main(["export", "-m", str(folder), "--to", "onnx", "-o", "file/below", "-q"]) == 1
    assert "'file' is a file, and no folder" in capsys.readouterr().err


def test_an_empty_folder_is_taken(folder: Path) -> None:
    Path("out").mkdir()
    assert main(["export", "-m", str(folder), "--to", "onnx", "-o", "out", "-q"]) == 0
    assert Path("out/model.json").is_file()


def test_without_the_packages_the_help_says_how_to_get_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert main(["export", "-m", str(folder), "--to", "onnx", "-o", "out"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "needs the packages onnx and onnxruntime" in first
    assert 'pip install "stemsplit[onnx]"' in second
    assert not Path("out").exists()
