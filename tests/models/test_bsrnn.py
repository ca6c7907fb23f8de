"""Band-split RNN against the original, on weights that the original saved.

The goldens are random weights in the original's own files, one of them from its own training, and
what its code made of a short song with them: tools/goldens/bsrnn.py.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stemsplit.errors import CheckpointError, RegistryError
from stemsplit.models.band_split_rnn import BandSplitRNN, BandSplitRNNConfig
from stemsplit.models.base import StemModel
from stemsplit.models.blocks import framewise
from stemsplit.separation.separator import Separator
from stemsplit.weights.convert import read_checkpoint
from stemsplit.weights.keymaps import apply_keymap, build_keymap
from stemsplit.weights.load import load_model
from stemsplit.weights.recognise import recognise
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

GOLDENS = Path(__file__).parent.parent / "goldens"
SPLITS = "[[[4000, 4000], [12000, 8000]]]"
TABLE = """
[models.golden]
description = "random weights, for tests"
architecture = "bsrnn"
stems = ["vocals"]
channels = {channels}
[models.golden.config]
n_fft = 16
hop_length = 4
frames = 25
splits = {splits}
width = 8
hidden_size = 5
mask_hidden_size = 6
layers = 1
advance = 17
{more}
[[models.golden.files]]
source = "{source}"
format = "torch-pickle"
keymap = "{keymap}"
stem = "vocals"
"""
ATTENTION = 'bottleneck = "attention"\nwindow = "hann"'
GRU = 'cell = "gru"\nbidirectional = false\nmapping = true'
VARIANTS = {"rnn": (2, ""), "attention": (2, ATTENTION), "gru": (1, GRU)}


def read_table(folder: Path, source: Path, keymap: str = "bsrnn", **more: Any) -> Registry:
    values = {"channels": 2, "more": "", "splits": SPLITS, **more}
    registry = folder / "registry.toml"
    registry.write_text(TABLE.format(source=source.as_posix(), keymap=keymap, **values), "utf-8")
    return Registry.load([registry])


def load(folder: Path, source: Path, keymap: str = "bsrnn", **more: Any) -> StemModel:
    registry = read_table(folder, source, keymap, **more)
    store = Store(folder / "cache", offline=True)
    return load_model("golden", registry=registry, store=store)


def load_variant(folder: Path, variant: str) -> StemModel:
    channels, more = VARIANTS[variant]
    return load(folder, GOLDENS / f"bsrnn_{variant}.pt", channels=channels, more=more)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDENS / "bsrnn.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


# What the original computes


@pytest.mark.parametrize("at_once", [1, 1 << 19], ids=["one by one", "together"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_network_alone(
    variant: str,
    at_once: int,
    golden: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(framewise, "SEQUENCE_NUMBERS_AT_ONCE", at_once)
    model = load_variant(tmp_path, variant)
    spectrum = golden[f"{variant}_spectrum"]
    assert isinstance(model, BandSplitRNN)
    got = model.estimate(model.run_core(model.core_inputs(spectrum)), spectrum)[:, 0]
    assert got.shape == golden[f"{variant}_net"].shape
    assert relative(got, golden[f"{variant}_net"]) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_song_in_the_original_framing(
    variant: str, golden: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = load_variant(tmp_path, variant)
    mixture = golden[f"{variant}_mixture"]
    got = Separator(model, framing="original").separate(mixture)["vocals"]
    assert got.shape == mixture.shape
    assert relative(got, golden[f"{variant}_song"]) < 5e-6


@pytest.mark.parametrize(("keymap", "name"), [("bsrnn", "raw"), ("bsrnn-averaged", "averaged")])
def test_a_checkpoint_of_the_original_training(
    keymap: str, name: str, golden: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = load(tmp_path, GOLDENS / "bsrnn.ckpt", keymap)
    got = Separator(model, framing="original").separate(golden["rnn_mixture"])["vocals"]
    assert relative(got, golden[f"{name}_song"]) < 5e-6
    assert relative(golden["raw_song"], golden["averaged_song"]) > 0.05


@pytest.mark.parametrize("samples", [1, 6, 17, 92, 97, 108, 109])
@torch.no_grad()
def test_windows_begin_where_the_original_has_them(samples: int) -> None:
    # 79 zeros in front; behind as many, and what the last window lacks.
    sizes = {"n_fft": 16, "hop_length": 4, "frames": 25, "advance": 17, "layers": 1}
    model = BandSplitRNN(BandSplitRNNConfig(("vocals",), 1, splits=(((4000, 4000),),), **sizes))
    _, carry = model.encode(torch.ones(1, 1, samples))
    windows = carry.spectrum.shape[0]
    assert carry.heard == slice(79, 79 + samples)
    covered = (windows - 1) * 17 + 96
    assert 79 <= covered - (79 + samples) < 79 + 17


# How stemsplit frames a song by default


@torch.no_grad()
def test_a_chunk_is_one_window(golden: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = load_variant(tmp_path, "rnn")
    chunk = golden["rnn_mixture"][:, :96]
    for samples in (96, 93):
        ((inputs,), _) = model.encode(chunk[None, :, :samples])
        assert inputs.shape == (1, 2, 2, 9, 25)
        assert model(chunk[None, :, :samples]).shape == (1, 1, 2, samples)
    spectrum = torch.stft(chunk, 16, 4, window=torch.hann_window(16), return_complex=True)
    (inputs,), _ = model.encode(chunk[None])
    torch.testing.assert_close(inputs[0, :, 0], spectrum.real)
    torch.testing.assert_close(inputs[0, :, 1], spectrum.imag)


def test_the_default_framing_keeps_a_constant_gain() -> None:
    # With a mask of one everywhere: what goes in comes out, and not in the original framing.
    config = BandSplitRNNConfig.tiny(("vocals",))
    model = BandSplitRNN(config).eval()
    model.core.nets["vocals"].estimate_mask = lambda level: torch.stack(
        (torch.ones_like(level[:, :, 0]), torch.zeros_like(level[:, :, 0])), dim=2
    )
    mixture = 0.3 * torch.sin(torch.arange(20_000) * 0.05).expand(2, -1)
    ours = Separator(model).separate(mixture)["vocals"]
    torch.testing.assert_close(ours, mixture, rtol=0, atol=1e-4)
    original = Separator(model, framing="original").separate(mixture)["vocals"]
    assert (original - mixture).abs().max() > 0.05


# The published sizes


def targets(model: StemModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def published(bins: list[int], *, attention: bool = False) -> dict[str, tuple[int, ...]]:
    """Return names and shapes as the original saves a network of the published size."""
    frames, width, hidden, between, layers = 263, 128, 256, 512, 12
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, ins: int, outs: int) -> None:
        shapes.update({f"{name}.weight": (outs, ins), f"{name}.bias": (outs,)})

    def norm(name: str, *sizes: int) -> None:
        shapes.update({f"{name}.weight": sizes, f"{name}.bias": sizes})

    for band, count in enumerate(bins):
        norm(f"bandsplit.layernorms.{band}", 4 * count, frames)
        linear(f"bandsplit.fcs.{band}", 4 * count, width)
        norm(f"maskest.layernorms.{band}", frames, width)
        linear(f"maskest.mlp.{band}.mlp.0", width, between)
        linear(f"maskest.mlp.{band}.mlp.2", between, 4 * count)
        linear(f"maskest.mlp.{band}.mlp.3.linear", 4 * count, 8 * count)
    kind, rnn, fc = (
        ("dptransformers", "recurrent", "linear") if attention else ("bsrnn", "rnn", "fc")
    )
    for layer in range(layers):
        for way in (0, 1):
            name = f"bandsequence.{kind}.{layer}.{way}"
            norm(f"{name}.groupnorm", width)
            if attention:
                shapes[f"{name}.mha.in_proj_weight"] = (3 * width, width)
                shapes[f"{name}.mha.in_proj_bias"] = (3 * width,)
                linear(f"{name}.mha.out_proj", width, width)
            for end in ("", "_reverse"):
                for part, size in (("ih", width), ("hh", hidden)):
                    shapes[f"{name}.{rnn}.weight_{part}_l0{end}"] = (4 * hidden, size)
                    shapes[f"{name}.{rnn}.bias_{part}_l0{end}"] = (4 * hidden,)
            linear(f"{name}.{fc}", 2 * hidden, width)
    return shapes


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("stem", "bands", "parameters"),
    [
        ("vocals", 41, 32_414_628),
        ("other", 41, 32_414_628),
        ("bass", 30, 33_371_812),
        ("drums", 55, 35_954_340),
    ],
)
def test_the_published_names_fill_a_network(stem: str, bands: int, parameters: int) -> None:
    config = BandSplitRNNConfig((stem,))
    bins = config.find_bands(stem)
    assert len(bins) == bands
    assert sum(bins) == 1025
    shapes = published(bins)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    with torch.device("meta"):
        wanted = targets(BandSplitRNN(config))
    raw = {f"state_dict.model.{name}": shape for name, shape in shapes.items()}
    averaged = {
        f"optimizer_states.0.ema.{place}": shape for place, shape in enumerate(shapes.values())
    }
    for keymap, held in (("bsrnn", shapes), ("bsrnn", raw), ("bsrnn-averaged", raw | averaged)):
        filled = apply_keymap(build_keymap(keymap, stem, (stem,)), zeros(held), wanted)
        assert filled.keys() == wanted.keys()


def test_the_first_bands_of_v7() -> None:
    # 21.5 Hz a bin: 100 Hz hold bins 0 to 4, 200 Hz up to 9.
    bins = BandSplitRNNConfig(("vocals",)).find_bands("vocals")
    assert bins[:4] == [5, 5, 4, 5]
    assert bins[-2:] == [93, 96]


def test_the_attention_of_the_published_size() -> None:
    config = BandSplitRNNConfig(("vocals",), bottleneck="attention")
    with torch.device("meta"):
        wanted = targets(BandSplitRNN(config))
    shapes = published(config.find_bands("vocals"), attention=True)
    keymap = build_keymap("bsrnn", "vocals", ("vocals",))
    assert apply_keymap(keymap, zeros(shapes), wanted).keys() == wanted.keys()


def test_every_stem_has_its_own_bands() -> None:
    with torch.device("meta"):
        model = BandSplitRNN(BandSplitRNNConfig(("drums", "bass")))
    assert [len(net.bins) for net in model.core.nets.values()] == [55, 30]


@pytest.mark.parametrize("variant", ["attention", "gru"])
def test_gradients_reach_the_other_modules_too(variant: str, tmp_path: Path) -> None:
    model = load_variant(tmp_path, variant).train()
    dice = torch.Generator().manual_seed(0)
    mixture = torch.randn(2, model.channels, 300, generator=dice)
    model.requires_grad_(True)
    model(mixture).square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert [name for name, value in model.named_parameters() if not value.grad.any()] == []


# Files that are not what they should be


def damage(path: Path, change: Any) -> Path:
    state = torch.load(GOLDENS / "bsrnn_rnn.pt", weights_only=True)
    change(state)
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("bandsplit.fcs.1.bias"), "core.nets.vocals.split.1.fc.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unused: extra"),
        (
            lambda state: state.update({"maskest.layernorms.0.weight": torch.zeros(25, 9)}),
            r"core.nets.vocals.masks.0.norm.weight \(25, 9\) in place of \(25, 8\)",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(change: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=named):
        load(tmp_path, damage(tmp_path / "vocals.pt", change))


@pytest.mark.parametrize("averages", [0, 1, 3])
def test_averages_that_are_not_one_for_each_tensor(averages: int) -> None:
    held = {"state_dict.model.a": (1,), "state_dict.model.b": (1,)}
    held |= {f"optimizer_states.0.ema.{place}": (1,) for place in range(averages)}
    keymap = build_keymap("bsrnn-averaged", "vocals", ("vocals",))
    with pytest.raises(CheckpointError, match=f"{averages} averaged tensors .* for 2 of"):
        apply_keymap(keymap, zeros(held), {})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("[[[100, 50]]]", "band 1 of vocals has no bins"),
        ("[[[22000, 11000], [23000, 1000]]]", "has no bins"),
        ("[[[4000, 4000]], [[4000, 4000]]]", "2 band splits for 1 stems"),
    ],
)
def test_splits_that_make_no_bands(splits: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=message):
        load(tmp_path, GOLDENS / "bsrnn_rnn.pt", splits=splits)


def test_a_person_s_own_checkpoint_is_recognised(tmp_path: Path) -> None:
    registry = read_table(tmp_path, GOLDENS / "bsrnn_rnn.pt")
    found = recognise(GOLDENS / "bsrnn.ckpt", {"golden": registry.get("golden")})
    assert (found.stems, found.files[0].keymap) == (("vocals",), "bsrnn")


def test_the_checkpoint_s_settings_are_read_as_plain_values() -> None:
    # The settings are omegaconf's, and hydra keeps what it looked up by tuples.
    keymap = build_keymap("bsrnn", "vocals", ("vocals",))
    checkpoint = read_checkpoint(GOLDENS / "bsrnn.ckpt", "torch-pickle", inert=keymap.inert)
    assert any(key.endswith("('%Y-%m-%d',)") for key in checkpoint.metadata)
    assert pickle.dumps(dict(checkpoint.metadata))
