"""D3Net against the original in NNabla.

The golden is random weights in NNabla's own file, and what Sony's code made of a short song with
them: tools/goldens/d3net.py.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch

from stemsplit.dsp.rank_one_wiener import RankOneWiener
from stemsplit.errors import CheckpointError
from stemsplit.models.base import StemModel, build_config
from stemsplit.models.d3net import D3Net, D3NetConfig
from stemsplit.separation.separator import Separator
from stemsplit.weights.keymaps import apply_keymap, build_keymap
from stemsplit.weights.load import load_model
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

GOLDENS = Path(__file__).parent.parent / "goldens"
STEMS = ("vocals", "drums", "bass", "other")
GOLDEN_STEMS = ("vocals", "bass")
HOP = 16
TABLE = """
[models.golden]
description = "random weights, for tests"
architecture = "d3net"
stems = ["vocals", "bass"]

[models.golden.config]
n_fft = 64
hop_length = 16
seen_bins = 24
chunk_frames = 24
"""
NET = """
[[models.golden.config.nets]]
splits = [{split}]
final_growth = 3
final_layers = {final}
patch_frames = {patch}
bands = [
    {{ first = 4, growth = [3, 4, 3], layers = {low}, blocks = 2 }},
    {{ first = 3, growth = [2, 2, 2], layers = [1, 1, 1], blocks = 1 }},
]
full = {{ first = 4, growth = [2, 3, 3, 2, 2], layers = [1, 2, 4, 2, 1], blocks = 2 }}
"""
FILE = """
[[models.golden.files]]
source = "{source}"
format = "hdf5"
keymap = "{keymap}"
"""
CONFIG = (
    TABLE
    + NET.format(split=8, final=3, patch=16, low=[2, 3, 2])
    + NET.format(split=12, final=2, patch=24, low=[1, 2, 1])
)


def load(folder: Path, files: str) -> D3Net:
    registry = folder / "registry.toml"
    registry.write_text(CONFIG + files, encoding="utf-8")
    store = Store(folder / "cache", offline=True)
    model = load_model("golden", registry=Registry.load([registry]), store=store)
    assert isinstance(model, D3Net)
    return model


def unpack(folder: Path) -> Path:
    """Write the file as NNabla left it: all stems, as in the first release."""
    path = folder / "d3net-mss.h5"
    path.write_bytes(gzip.decompress((GOLDENS / "d3net.h5.gz").read_bytes()))
    return path


def load_joint(folder: Path) -> D3Net:
    return load(folder, FILE.format(source=unpack(folder).as_posix(), keymap="d3net-joint"))


def load_single(folder: Path) -> D3Net:
    """Read a file per stem, as in the second release."""
    files = ""
    with h5py.File(unpack(folder)) as joint:
        for stem in GOLDEN_STEMS:
            path = folder / f"{stem}.h5"
            with h5py.File(path, "w") as single:
                joint.copy(stem, single)
            source = path.as_posix()
            files += FILE.format(source=source, keymap="d3net") + f'stem = "{stem}"\n'
    return load(folder, files)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDENS / "d3net.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> D3Net:
    return load_joint(tmp_path_factory.mktemp("joint"))


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("stem", GOLDEN_STEMS)
@torch.no_grad()
def test_the_network_alone(model: D3Net, golden: dict[str, torch.Tensor], stem: str) -> None:
    expected = golden[f"net_{stem}"].transpose(0, 1).unsqueeze(0)
    got = model.core.nets[stem].estimate(golden[f"magnitude_{stem}"].transpose(0, 1).unsqueeze(0))
    assert 0.02 < (expected[..., :24] == 0).float().mean() < 0.9
    assert relative(got, expected) < 1e-6


@torch.no_grad()
def test_patches_and_flips(model: D3Net, golden: dict[str, torch.Tensor]) -> None:
    mixture = golden["mixture"].unsqueeze(0)
    whole = mixture.shape[-1] // HOP * HOP
    stems = model(mixture)[0]
    for place, stem in enumerate(GOLDEN_STEMS):
        # The original leaves out what does not fill a hop at the end.
        assert relative(stems[place, :, :whole], golden[f"plain_{stem}"]) < 1e-6


@pytest.mark.parametrize("load", [load_joint, load_single])
def test_a_whole_song_in_the_original_framing(
    load: Callable[[Path], StemModel], golden: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    mixture = golden["mixture"]
    got = Separator(load(tmp_path), framing="original", wiener=1).separate(mixture)
    whole = mixture.shape[-1] // HOP * HOP
    for stem in GOLDEN_STEMS:
        assert got[stem].shape == mixture.shape
        assert relative(got[stem][:, :whole], golden[f"song_{stem}"]) < 1e-5
        # So that the test can tell a filter from none.
        assert relative(golden[f"plain_{stem}"], golden[f"song_{stem}"]) > 0.1


@torch.no_grad()
def test_a_chunk_is_one_input_without_zeros_around_it(model: D3Net) -> None:
    frames = model.chunk.samples // HOP + 1
    assert frames == model.config.chunk_frames
    magnitude = torch.rand(2, 2, 33, frames, generator=torch.Generator().manual_seed(0))
    for net in model.core.nets.values():
        x = magnitude.transpose(2, 3)
        expected = (net.estimate(x) + net.estimate(x.flip(1)).flip(1)) / 2
        assert relative(net(magnitude), expected.transpose(2, 3)) < 1e-6


@torch.no_grad()
def test_memory_does_not_grow_with_the_song(
    model: D3Net, golden: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = golden["mixture"].unsqueeze(0)
    expected = model(mixture)
    sizes = []
    for net in model.core.nets.values():
        net.full.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0]))
    monkeypatch.setattr("stemsplit.models.d3net.PIXELS_AT_ONCE", 1)
    assert relative(model(mixture), expected) < 1e-6
    assert set(sizes) == {1}


@torch.no_grad()
def test_the_filter_shares_a_mono_mixture_by_power() -> None:
    # Covariances of one channel twice have no inverse: the stems' shares are those of their power.
    dice = torch.Generator().manual_seed(0)
    one = torch.randn(1, 2, 1, 5, 40, dtype=torch.complex64, generator=dice)
    estimates = one.expand(-1, -1, 2, -1, -1)
    mixture = torch.randn(1, 1, 5, 40, dtype=torch.complex64, generator=dice).expand(-1, 2, -1, -1)
    power = one.abs().square()
    expected = mixture.unsqueeze(1) * power / power.sum(dim=1, keepdim=True)
    assert relative(RankOneWiener()(estimates, mixture), expected) < 1e-6


def test_the_filter_keeps_silence() -> None:
    estimates = torch.zeros(1, 2, 2, 5, 7, dtype=torch.complex64)
    assert not RankOneWiener()(estimates, estimates[:, 0]).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_of_other_channels_gives_the_mixture_back(channels: int) -> None:
    dice = torch.Generator().manual_seed(0)
    estimates = torch.randn(1, 3, channels, 5, 40, dtype=torch.complex64, generator=dice)
    mixture = estimates.sum(dim=1)
    assert relative(RankOneWiener()(estimates, mixture).sum(dim=1), mixture) < 1e-3


# The published layout, whose files nobody here has: names and shapes from the original's code


class Sizes(NamedTuple):
    split: int
    low_layers: str
    low: tuple[int, ...]
    high_depth: int
    first: int
    layers: str
    growth: tuple[int, ...]
    last: int


LOW, LOW_BASS = (16, 18, 20, 22, 20, 18, 16), (16, 18, 18, 20, 18, 16, 16)
FULL, FULL_BASS = (13, 14, 15, 16, 17, 16, 14, 12, 11), (10, 10, 12, 14, 16, 14, 12, 8, 8)
FULL_DRUMS = (13, 14, 15, 16, 16, 16, 14, 12, 11)
LOW_OTHER, FULL_OTHER = (14, 15, 16, 18, 16, 14, 14), (11, 12, 13, 14, 16, 14, 12, 11, 10)
VOCALS = Sizes(256, "5555444", LOW, 2, 32, "456786544", FULL, 12)
SIZES = {
    "vocals": VOCALS,
    "drums": Sizes(128, "5554444", LOW, 2, 32, "456786644", FULL_DRUMS, 12),
    "bass": Sizes(192, "5555444", LOW_BASS, 3, 32, "456786644", FULL_BASS, 12),
    "other": VOCALS,
}
OLDER = {
    "vocals": VOCALS,
    "drums": Sizes(128, "5554444", LOW, 2, 32, "456786544", FULL, 12),
    "bass": Sizes(192, "4554444", LOW_BASS, 3, 30, "333575322", FULL_BASS, 14),
    "other": Sizes(256, "4556444", LOW_OTHER, 2, 30, "346785433", FULL_OTHER, 12),
}
Shapes = dict[str, tuple[int, ...]]


def norm(name: str, wide: int) -> Shapes:
    return {f"{name}/bn/{what}": (1, wide, 1, 1) for what in ("beta", "gamma", "mean", "var")}


def conv(name: str, wide_in: int, wide_out: int, size: int = 3) -> Shapes:
    return {f"{name}/conv/W": (wide_out, wide_in, size, size), f"{name}/conv/b": (wide_out,)}


def dense(name: str, wide: int, growth: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    for layer in range(layers):
        here = f"{name}/layers/layer{layer}" if layer else f"{name}/initial_layer"
        ins = growth if layer else wide
        shapes |= norm(f"{here}/bottleneck/norm1", ins)
        shapes |= conv(f"{here}/bottleneck/conv1", ins, growth * (layers - layer))
    return shapes


def branch(name: str, wide: int, growth: tuple[int, ...], layers: str, blocks: int) -> Shapes:
    shapes: Shapes = {}
    depth = len(growth) // 2
    for place, (here, count) in enumerate(zip(growth, layers, strict=True)):
        block = f"{name}/{'d' if place < depth else 'u'}s_layers/dense_block{place}"
        block = f"{name}/bottleneck_block" if place == depth else block
        if place > depth:
            rise = f"{name}/us_layers/upsample{place - depth - 1}/upsample"
            shapes |= norm(f"{rise}/norm", wide)
            shapes |= {f"{rise}/transconv/deconv/W": (wide, wide, 2, 2)}
            shapes |= {f"{rise}/transconv/deconv/b": (wide,)}
            wide += growth[2 * depth - place]
        for part in range(blocks):
            own = f"{block}/layers/layer{part}" if part else f"{block}/initial_block"
            shapes |= dense(own, here if part else wide, here * (blocks - part), int(count))
        wide = here
    return shapes


def published(stem: str, release: dict[str, Sizes]) -> Shapes:
    """Return names and shapes as NNabla saves one network of the published sizes."""
    _, low_layers, low, depth, first, layers, growth, last = release[stem]
    shapes: Shapes = {f"in_{what}": (1, 1, 1, 2049) for what in ("offset", "scale")}
    shapes |= {f"decode_{what}": (1, 1, 1, 1600) for what in ("scale", "bias")}
    shapes |= conv("features_init/0", 2, 32) | conv("features_init/1", 2, 8)
    shapes |= conv("features_init_full", 2, first)
    shapes |= branch("dense_band/0", 32, low, low_layers, 2)
    count = 2 * depth + 1
    shapes |= branch("dense_band/1", 8, (2,) * count, "1" * count, 1)
    shapes |= norm("match_fm_conv/1/norm", 2) | conv("match_fm_conv/1/conv", 2, low[-1], 1)
    shapes |= branch("dense_full", first, growth, layers, 2)
    shapes |= dense("final_dense", low[-1] + growth[-1], last, 3) | norm("out_gate/bn", last)
    shapes |= conv("out_gate/conv_gate/conv", last, 2, 1)
    shapes |= conv("out_gate/conv_filt/conv", last, 2, 1)
    return {f"{stem}/{name}": shape for name, shape in shapes.items()}


def targets(model: StemModel, stem: str = "") -> Shapes:
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked") and name.startswith(f"core.nets.{stem}")
    }


def zeros(shapes: Shapes) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def full_size() -> D3Net:
    with torch.device("meta"):
        return D3Net(D3NetConfig(STEMS))


@pytest.mark.parametrize(
    ("stem", "tensors", "numbers"),
    [
        ("vocals", 1098, 2_975_489),
        ("drums", 1098, 2_881_270),
        ("bass", 1128, 2_427_050),
        ("other", 1098, 2_975_489),
    ],
)
def test_the_second_release_fills_its_networks(
    full_size: D3Net, stem: str, tensors: int, numbers: int
) -> None:
    shapes = published(stem, SIZES)
    assert len(shapes) == tensors
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == numbers
    wanted = targets(full_size, stem)
    keymap = build_keymap("d3net", stem, STEMS)
    assert apply_keymap(keymap, zeros(shapes), wanted).keys() == wanted.keys()


def test_the_first_release_fills_its_networks() -> None:
    with torch.device("meta"):
        wanted = targets(D3Net(D3NetConfig(STEMS, release="2021-06")))
    shapes = {name: shape for stem in STEMS for name, shape in published(stem, OLDER).items()}
    keymap = build_keymap("d3net-joint", None, STEMS)
    assert apply_keymap(keymap, zeros(shapes), wanted).keys() == wanted.keys()


@pytest.mark.parametrize("stem", ["drums", "bass", "other"])
def test_the_releases_are_told_apart_by_their_shapes(full_size: D3Net, stem: str) -> None:
    keymap = build_keymap("d3net", stem, STEMS)
    with pytest.raises(CheckpointError, match=f"core.nets.{stem}"):
        apply_keymap(keymap, zeros(published(stem, OLDER)), targets(full_size, stem))


def test_the_golden_has_the_published_names(tmp_path: Path) -> None:
    names: list[str] = []
    with h5py.File(unpack(tmp_path)) as file:
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
    # There are fewer layers in it, and of every kind some.
    kinds = {re.sub(r"\d+", "#", name.partition("/")[2]) for name in names}
    wanted = (name.partition("/")[2] for name in published("vocals", SIZES))
    assert kinds == {re.sub(r"\d+", "#", name) for name in wanted}


FULL_BRANCH = "vocals/dense_full/ds_layers/dense_block0"
FIRST_UNIT = f"{FULL_BRANCH}/initial_block/initial_layer/bottleneck/conv1/conv/W"


@pytest.mark.parametrize(
    ("name", "shape", "named"),
    [
        ("vocals/in_scale", (1, 1, 1, 32), "input_deviation"),
        (FIRST_UNIT, None, "full.down.0.layers.0.layers.0.conv.weight"),
        ("bass/match_fm_conv/1/conv/conv/W", (3, 2, 3, 3), "match.1.conv.weight"),
        ("bass/match_fm_conv/0/conv/conv/W", (3, 3, 1, 1), "match.0.conv.weight"),
        ("bass/out_gate/bn/bn/var", (1, 4, 1, 1), "nets.bass.norm.running_var"),
        ("other/in_scale", (1, 1, 1, 33), "other/in_scale"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    name: str, shape: tuple[int, ...] | None, named: str, tmp_path: Path
) -> None:
    path = unpack(tmp_path)
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if shape is not None:
            file[name] = np.zeros(shape, np.float32)
    with pytest.raises(CheckpointError, match=named):
        load(tmp_path, FILE.format(source=path.as_posix(), keymap="d3net-joint"))


def test_sizes_that_do_not_fit_together() -> None:
    band = {"first": 4, "growth": [2, 2, 2], "layers": [1, 1], "blocks": 1}
    with pytest.raises(ValueError, match="as many of both"):
        build_config(
            D3NetConfig, {"stems": ["a"], "nets": [{"splits": [], "bands": [band], "full": band}]}
        )
    band["layers"] = [1, 1, 1]
    net = {"splits": [8], "bands": [band], "full": band}
    with pytest.raises(ValueError, match="1 splits do not make 1 bands"):
        build_config(D3NetConfig, {"stems": ["a"], "nets": [net]})
    net["splits"] = []
    config = build_config(D3NetConfig, {"stems": ["a", "b"], "nets": [net]})
    with pytest.raises(ValueError, match="1 networks for 2 stems"):
        config.find_sizes("b")
