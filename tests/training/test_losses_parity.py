"""One training step against the originals: the same weights and batch cost the same.

The goldens are what the originals' own loss code made of their own networks in training, with the
weights that tests/models has goldens of: tools/goldens/losses.py. The losses here are those of the
recipes that are shipped.
"""

from __future__ import annotations

import gzip
import math
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stemsplit.models.base import StemModel
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.spleeter import Spleeter, SpleeterConfig
from stemsplit.training.losses import LossConfig, build_loss
from stemsplit.training.recipe_files import load_recipe
from stemsplit.weights.load import load_model
from stemsplit.weights.registry import Registry
from stemsplit.weights.store import Store

GOLDENS = Path(__file__).parent.parent / "goldens"
STEMS = ("vocals", "drums", "bass", "other")
TABLE = """
[models.golden]
description = "random weights, for tests"
architecture = "{architecture}"
stems = {stems}
[models.golden.config]
{config}
[[models.golden.files]]
source = "{source}"
format = "{format}"
keymap = "{keymap}"
{stem}
"""
UNET = "n_fft = 64\nhop_length = 16\nlayers = 2\nsegment_frames = 32\ntrim_samples = 100\n"
UNETS = {
    "tfc": (
        "unet-tfc-tdf-magnitude",
        'block = "tfc"\nspectrogram = "magnitude"\nestimate = "masking"\nblocks = 5\nwidth = 3\n'
        'last_activation = "sigmoid"\nactivation = "leaky_relu"\ntime_levels = [1]',
    ),
    "tdf": (
        "unet-tfc-tdf-complex-mask",
        'block = "tdf"\nestimate = "masking"\nlast_activation = "tanh"\nblocks = 3\n'
        "bottleneck_factor = 0\nbias = false",
    ),
    "tdc": (
        "unet-tfc-tdf-magnitude",
        'block = "tdc"\nspectrogram = "magnitude"\nestimate = "masking"\nblocks = 3\n'
        'last_activation = "relu"',
    ),
    "tdc_rnn": (
        "unet-tdc-rnn",
        'block = "tdc-rnn"\nblocks = 3\nwidth = 3\nrnn_factor = 4\nrnn_layers = 2\nrnn_least = 5\n'
        "rnn_bias = true\nbottleneck_factor = 2\nbias = false",
    ),
    "tfc_tdf": (
        "unet-tfc-tdf",
        'block = "tfc-tdf"\nblocks = 5\nwidth = 4\nbottleneck_factor = 4\nbottleneck_least = 6',
    ),
}
LASAFT = UNET + (
    "width = 3\nbottleneck_factor = 4\nbottleneck_least = 6\nembedding = 5\nlatents = 3\n"
    "key_width = 4\n"
)
LASAFTS = {
    "gpocm_lasaft": ("lasaft", "blocks = 3"),
    "gpocm_lightsaft": (
        "lightsaft",
        'blocks = 3\ntransform = "lightsaft"\nconditioned = "full"\nbias = true',
    ),
    "gpocm": ("cunet-gpocm", 'blocks = 5\ntransform = "none"\nnorm_modulation = false'),
    "film_tdf": (
        "cunet-film-tdf",
        'blocks = 3\nmodulation = "film"\ntransform = "tdf"\nconditioned = "encoder"\nbias = true\n'
        'gamma_activation = "sigmoid"\nbeta_activation = "tanh"',
    ),
}
BSRNN = (
    "n_fft = 16\nhop_length = 4\nframes = 25\nsplits = [[[4000, 4000], [12000, 8000]]]\nwidth = 8\n"
    "hidden_size = 5\nmask_hidden_size = 6\nlayers = 1\nadvance = 17\n"
)
D3NET = """n_fft = 64
hop_length = 16
seen_bins = 24
chunk_frames = 24
"""
D3NET_NET = """
[[models.golden.config.nets]]
splits = [{split}]
final_growth = 3
final_layers = {final}
bands = [
    {{ first = 4, growth = [3, 4, 3], layers = {low}, blocks = 2 }},
    {{ first = 3, growth = [2, 2, 2], layers = [1, 1, 1], blocks = 1 }},
]
full = {{ first = 4, growth = [2, 3, 3, 2, 2], layers = [1, 2, 4, 2, 1], blocks = 2 }}
"""


def load(
    folder: Path,
    architecture: str,
    config: str,
    source: Path,
    *,
    stems: tuple[str, ...],
    **file: str,
) -> StemModel:
    """Return a golden's model, in training."""
    values = {"format": "torch-pickle", "keymap": architecture, "stem": "", **file}
    table = TABLE.format(
        architecture=architecture,
        stems=list(stems),
        config=config,
        source=source.as_posix(),
        **values,
    )
    registry = folder / "registry.toml"
    registry.write_text(table, encoding="utf-8")
    store = Store(folder / "cache", offline=True)
    model = load_model("golden", registry=Registry.load([registry]), store=store)
    assert isinstance(model, StemModel)
    return still(model)


def still(model: StemModel) -> StemModel:
    """Switch to training, without dropout."""
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
    return model.requires_grad_(True)


def find_loss(recipe: str) -> LossConfig:
    return load_recipe(recipe).loss


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"loss_{name}.npz") as file:
        return dict(file)


def check(
    model: StemModel,
    config: LossConfig,
    wanted: dict[str, np.ndarray],
    name: str,
    stems: Tensor,
    *,
    rtol: float = 1e-5,
    is_joined: bool = False,
) -> None:
    """Compare a step's loss, and norms of its gradient.

    `is_joined`: NNabla has one tensor for an LSTM's matrices, and one bias where torch has two of
    the same gradient.
    """
    mixture = torch.from_numpy(wanted["stems"].sum(1))
    loss = build_loss(config)(model, mixture, stems)
    loss.backward()
    assert loss.item() == pytest.approx(float(wanted[f"{name}_loss"]), rel=rtol)
    norms = [
        float(one.grad.norm())
        for key, one in model.named_parameters()
        if one.grad is not None and not (is_joined and ".bias_hh" in key)
    ]
    assert math.hypot(*norms) == pytest.approx(float(wanted[f"{name}_gradient"]), rel=1e-4)
    if not is_joined:
        largest = sorted(norms, reverse=True)[:10]
        assert largest == pytest.approx(wanted[f"{name}_largest"].tolist(), rel=1e-3)


@pytest.mark.parametrize("case", UNETS)
def test_the_unets_of_the_study(case: str, tmp_path: Path) -> None:
    recipe, config = UNETS[case]
    source = GOLDENS / f"unet_{case}.ckpt"
    architecture = "intermediate-block-unet"
    model = load(
        tmp_path, architecture, UNET + config, source, stems=("vocals",), stem='stem = "vocals"'
    )
    wanted = golden("unet")
    check(model, find_loss(recipe), wanted, case, torch.from_numpy(wanted["stems"][:, :1]))


@pytest.mark.parametrize("case", LASAFTS)
def test_conditioned_networks_with_every_condition(case: str, tmp_path: Path) -> None:
    recipe, config = LASAFTS[case]
    source = GOLDENS / f"lasaft_{case}.ckpt"
    model = load(tmp_path, "lasaft", LASAFT + config, source, stems=STEMS)
    wanted = golden("lasaft")
    check(model, find_loss(recipe), wanted, case, torch.from_numpy(wanted["stems"]))


@pytest.mark.parametrize("case", ["rnn", "attention"])
def test_band_split_rnn(case: str, tmp_path: Path) -> None:
    config = BSRNN + ('bottleneck = "attention"' if case == "attention" else "")
    source = GOLDENS / f"bsrnn_{case}.pt"
    model = load(tmp_path, "bsrnn", config, source, stems=("vocals",), stem='stem = "vocals"')
    wanted = golden("bsrnn")
    check(model, find_loss("bsrnn"), wanted, case, torch.from_numpy(wanted["stems"][:, :1]))


@pytest.mark.parametrize("part", ["frequency", "time", "both"])
def test_x_umx(part: str, tmp_path: Path) -> None:
    model = load(
        tmp_path,
        "x-umx",
        "n_fft = 32\nhop_length = 8\nhidden_size = 16",
        GOLDENS / "x_umx.h5",
        stems=("bass", "drums", "vocals", "other"),
        format="hdf5",
        keymap="x-umx",
    )
    config = find_loss("x-umx")
    if part != "both":
        term = {"frequency": "combined_magnitude_mse", "time": "combined_sdr"}[part]
        config = replace(config, terms=(term,), weights=())
    wanted = golden("x_umx")
    stems = torch.from_numpy(wanted["stems"])
    check(model, config, wanted, part, stems, is_joined=True)


@pytest.mark.parametrize("stem", ["vocals", "bass"])
def test_d3net(stem: str, tmp_path: Path) -> None:
    source = tmp_path / "d3net-mss.h5"
    source.write_bytes(gzip.decompress((GOLDENS / "d3net.h5.gz").read_bytes()))
    nets = D3NET_NET.format(split=8, final=3, low=[2, 3, 2])
    nets += D3NET_NET.format(split=12, final=2, low=[1, 2, 1])
    model = load(
        tmp_path,
        "d3net",
        D3NET + nets,
        source,
        stems=("vocals", "bass"),
        format="hdf5",
        keymap="d3net-joint",
    ).only([stem])
    wanted = golden("d3net")
    index = ("vocals", "bass").index(stem)
    stems = torch.from_numpy(wanted["stems"][:, index : index + 1])
    # As many frames as the recipe's share of its excerpt: the first of them.
    config = find_loss("d3net")
    assert config.frames == 256
    check(model, replace(config, frames=32), wanted, stem, stems)


# Against packages that are installed, and statements of our own


def test_open_unmix_and_its_package(openunmix: types.ModuleType) -> None:
    torch.manual_seed(0)
    original = openunmix.model.OpenUnmix(nb_bins=129, hidden_size=16, nb_layers=2, max_bin=93)
    with torch.no_grad():
        original.input_mean.normal_(-0.5, 0.2)
        original.input_scale.normal_(0.5, 0.1)
    original.lstm.dropout = 0.0
    config = OpenUnmixConfig(("vocals",), n_fft=256, hop_length=64, hidden_size=16, layers=2)
    model = still(OpenUnmix(config))
    weights = {f"core.nets.vocals.{key}": value for key, value in original.state_dict().items()}
    model.load_state_dict(weights)
    stems = 0.3 * torch.randn(3, 2, 2, 5000)
    encoder = nn.Sequential(
        openunmix.model.make_filterbanks(n_fft=256, n_hop=64)[0], openunmix.model.ComplexNorm()
    )
    expected = nn.functional.mse_loss(
        original.train()(encoder(stems.sum(1))), encoder(stems[:, 0].contiguous())
    )
    expected.backward()
    loss = build_loss(find_loss("umx"))(model, stems.sum(1), stems[:, :1])
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = dict(model.named_parameters())
    for key, one in original.named_parameters():
        torch.testing.assert_close(
            ours[f"core.nets.vocals.{key}"].grad, one.grad, rtol=1e-3, atol=1e-5
        )


def test_spleeter_and_its_definition() -> None:
    """The sum over stems of the mean difference between what nets give and true magnitudes.

    Those of frames that are not centred, below 11 kHz. TensorFlow, in which the original is
    written, is not at hand: the networks are compared in tests/models/test_spleeter.py.
    """
    torch.manual_seed(0)
    model = still(Spleeter(SpleeterConfig.tiny(("vocals", "accompaniment"))))
    stems = 0.3 * torch.randn(2, 2, 2, 4096 + 63 * 1024)

    def transform(signal: Tensor) -> Tensor:
        frames = signal.unfold(-1, 4096, 1024) * torch.hann_window(4096)
        return torch.fft.rfft(frames).abs()[..., :1024]

    outputs = model.core(transform(stems.sum(1)))
    expected = sum((outputs[:, n] - transform(stems[:, n])).abs().mean() for n in range(2))
    # Statistics of batches are used: a second time through changes nothing.
    loss = build_loss(find_loss("spleeter"))(model, stems.sum(1), stems)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
