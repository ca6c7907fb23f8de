"""X-UMX, and Open-Unmix as NNabla wrote it, against the originals in NNabla.

The goldens are random weights in NNabla's own files, and what Sony's code made of a short song with
them: tools/goldens/x_umx.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from stemsplit.errors import CheckpointError
from stemsplit.models.base import StemModel
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.x_umx import XUmx, XUmxConfig
from stemsplit.separation.separator import Separator
from stemsplit.weights.keymaps import apply_keymap, build_keymap
from stemsplit.weights.load import load_model
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

GOLDENS = Path(__file__).parent.parent / "goldens"
STEMS = ("vocals", "drums", "bass", "other")
UMX_STEMS = ("vocals", "drums")
HOP = 8
# The goldens hold every fourth frame of what a network gives.
EVERY = 4
TABLE = """
[models.golden]
description = "random weights, for tests"
architecture = "{architecture}"
stems = {stems}
config = {{ n_fft = 32, hop_length = 8, hidden_size = 16{more} }}
"""
FILE = """
[[models.golden.files]]
source = "{source}"
format = "hdf5"
keymap = "{keymap}"
"""
NORBERT = ", filter_frames = 0, filter_eps = 2.220446049250313e-16"


def load(folder: Path, table: str) -> StemModel:
    registry = folder / "registry.toml"
    registry.write_text(table, encoding="utf-8")
    store = Store(folder / "cache", offline=True)
    return load_model("golden", registry=Registry.load([registry]), store=store)


def load_x_umx(folder: Path, source: Path = GOLDENS / "x_umx.h5") -> StemModel:
    table = TABLE.format(architecture="x-umx", stems=list(STEMS), more="")
    return load(folder, table + FILE.format(source=source.as_posix(), keymap="x-umx"))


def load_umx(folder: Path) -> StemModel:
    table = TABLE.format(architecture="open-unmix", stems=list(UMX_STEMS), more=NORBERT)
    for stem in UMX_STEMS:
        source = (GOLDENS / f"umx_nnabla_{stem}.h5").as_posix()
        table += FILE.format(source=source, keymap="open-unmix-nnabla") + f'stem = "{stem}"\n'
    return load(folder, table)


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDENS / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
def test_the_bridged_networks_alone(tmp_path: Path) -> None:
    wanted = golden("x_umx.npz")
    magnitude = wanted["magnitude"].permute(1, 2, 0).unsqueeze(0)
    masks = load_x_umx(tmp_path).core(magnitude)[0, ..., ::EVERY]
    for place, stem in enumerate(("bass", "drums", "vocals", "other")):
        expected = wanted["masks"][:, 2 * place : 2 * place + 2].permute(1, 2, 0)
        assert 0.02 < (expected == 0).float().mean() < 0.98
        assert relative(masks[STEMS.index(stem)], expected) < 1e-5


@torch.no_grad()
def test_the_single_networks_alone(tmp_path: Path) -> None:
    wanted = golden("umx_nnabla.npz")
    magnitude = wanted["magnitude"].permute(1, 2, 0).unsqueeze(0)
    masks = load_umx(tmp_path).core(magnitude)
    for place, stem in enumerate(UMX_STEMS):
        expected = wanted[f"net_{stem}"].permute(1, 2, 0)
        assert relative((masks[0, place] * magnitude[0])[..., ::EVERY], expected) < 1e-5


@pytest.mark.parametrize(("load", "name"), [(load_x_umx, "x_umx"), (load_umx, "umx_nnabla")])
def test_a_whole_song_in_the_original_framing(
    load: Callable[[Path], StemModel], name: str, tmp_path: Path
) -> None:
    wanted = golden(f"{name}.npz")
    model = load(tmp_path)
    got = Separator(model, framing="original", wiener=1).separate(wanted["mixture"])
    # The original leaves out what does not fill a hop at the end.
    whole = wanted["mixture"].shape[-1] // HOP * HOP
    for stem in model.stems:
        assert got[stem].shape == wanted["mixture"].shape
        assert relative(got[stem][:, :whole], wanted[f"song_{stem}"]) < 5e-6


@torch.no_grad()
def test_a_stem_asked_for_alone_is_that_stem(tmp_path: Path) -> None:
    # The original takes stems by their place in the request: its first would be bass.
    wanted = golden("x_umx.npz")
    got = Separator(load_x_umx(tmp_path), stems=["vocals"], framing="original", wiener=1).separate(
        wanted["mixture"]
    )
    assert list(got) == ["vocals"]
    whole = wanted["song_vocals"].shape[-1]
    assert relative(got["vocals"][:, :whole], wanted["song_vocals"]) < 1e-4


@torch.no_grad()
def test_all_networks_look_but_only_the_wanted_make_masks() -> None:
    model = XUmx(XUmxConfig.tiny(STEMS)).eval()
    ran = []
    for stem, net in model.core.nets.items():
        for layer in ("lstm", "fc3"):
            note = lambda *_, what=f"{stem} {layer}": ran.append(what)  # noqa: E731  # a name for a line too long
            getattr(net, layer).register_forward_hook(note)
    model.only(["bass"])(torch.randn(1, 2, 5000))
    assert ran == [*(f"{stem} lstm" for stem in STEMS), "bass fc3"]


# The published layout, whose files nobody here has: names and shapes from the original's code


def published(stem: str | None, hidden: int = 512, bins: int = 2049) -> dict[str, tuple[int, ...]]:
    """Return names and shapes as NNabla saves one network of the published size."""
    end = "" if stem is None else f"_{stem}"
    state, seen = hidden // 2, 1487
    shapes: dict[str, tuple[int, ...]] = {}
    for side, count in (("input", seen), ("output", bins)):
        shapes |= {f"{side}_{what}{end}": (count,) for what in ("mean", "scale")}
    sizes = ((2 * seen, hidden), (2 * hidden, hidden), (hidden, 2 * bins))
    for place, (ins, outs) in enumerate(sizes, start=1):
        shapes[f"fc{place}{end}/affine/W"] = (ins, outs)
        for what in ("beta", "gamma", "mean", "var"):
            shapes[f"fc{place}{end}/bn/{what}"] = (1, 1, outs)
    shapes[f"lstm{end}/lstm/weight_l0"] = (2, 4, state, hidden + state)
    shapes[f"lstm{end}/lstm/weight"] = (2, 2, 4, state, 2 * state + state)
    shapes[f"lstm{end}/lstm/bias"] = (3, 2, 4, state)
    return shapes


def targets(model: StemModel) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}


def test_the_published_open_unmix_fills_a_network() -> None:
    shapes = published(None)
    assert len(shapes) == 22
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 8_897_448
    with torch.device("meta"):
        wanted = targets(OpenUnmix(OpenUnmixConfig(("vocals",))))
    keymap = build_keymap("open-unmix-nnabla", "vocals", STEMS)
    assert apply_keymap(keymap, zeros(shapes), wanted).keys() == wanted.keys()


def test_the_published_x_umx_fills_four_networks() -> None:
    shapes = {name: shape for stem in STEMS for name, shape in published(stem).items()}
    assert len(shapes) == 88
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 35_589_792
    with torch.device("meta"):
        wanted = targets(XUmx(XUmxConfig(STEMS)))
    assert apply_keymap(build_keymap("x-umx", None, STEMS), zeros(shapes), wanted).keys() == (
        wanted.keys()
    )


def test_the_goldens_have_the_published_names() -> None:
    names: list[str] = []
    with h5py.File(GOLDENS / "x_umx.h5") as file:
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
    assert sorted(names) == sorted(name for stem in STEMS for name in published(stem))


@pytest.mark.parametrize("stems", [(*STEMS, "piano"), STEMS[:3]])
def test_other_stems_than_the_file_has(stems: tuple[str, ...]) -> None:
    shapes = {name: (1,) for stem in STEMS for name in published(stem)}
    for name, shape in published("bass", hidden=8, bins=1487).items():
        shapes |= {name.replace("_bass", f"_{stem}"): shape for stem in STEMS}
    config = XUmxConfig(stems, n_fft=2972, hidden_size=8, bandwidth_hz=22050)
    with torch.device("meta"):
        wanted = targets(XUmx(config))
    with pytest.raises(CheckpointError, match=r"missing: .*piano|unused: .*_other"):
        apply_keymap(build_keymap("x-umx", None, stems), zeros(shapes), wanted)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lstm_bass/lstm/weight", (3, 2, 4, 8, 24)),
        ("lstm_bass/lstm/weight", (2, 1, 4, 8, 24)),
        ("lstm_bass/lstm/weight", (2, 2, 4, 8)),
        ("lstm_bass/lstm/weight_l0", (2, 3, 8, 24)),
        ("lstm_bass/lstm/weight_l0", (2, 4, 8, 8)),
        ("lstm_bass/lstm/bias", (4, 2, 4, 8)),
        ("lstm_bass/lstm/bias", (3, 2, 4, 9)),
        ("fc2_bass/affine/W", (32, 17)),
        ("fc2_bass/affine/b", (16,)),
        ("fc2_bass/affine/W", None),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    name: str, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    path = tmp_path / "x-umx.h5"
    shutil.copy(GOLDENS / "x_umx.h5", path)
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if shape is not None:
            file[name] = np.zeros(shape, np.float32)
    named = name if shape != (3, 2, 4, 9) else "core.nets.bass.lstm.bias_ih_l0"
    named = "core.nets.bass.fc2.weight" if name.endswith("/W") else named
    with pytest.raises(CheckpointError, match=named):
        load_x_umx(tmp_path, path)


@torch.no_grad()
def test_numbers_in_double_precision_are_taken(tmp_path: Path) -> None:
    # NNabla saves what a script assigned, and its statistics begin as NumPy's doubles.
    path = tmp_path / "x-umx.h5"
    shutil.copy(GOLDENS / "x_umx.h5", path)
    with h5py.File(path, "r+") as file:
        for name in ("input_mean_bass", "fc1_bass/affine/W", "lstm_bass/lstm/bias"):
            values = file[name][()].astype(np.float64)
            del file[name]
            file[name] = values
    mixture = golden("x_umx.npz")["mixture"].unsqueeze(0)
    plain = load_x_umx(tmp_path)
    assert torch.equal(load_x_umx(tmp_path, path)(mixture), plain(mixture))
