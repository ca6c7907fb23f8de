"""Record what the U-Nets of the ISMIR 2020 study compute, for tests/models/test_unet.py.

    python tools/goldens/unet.py CHECKOUT tests/goldens

CHECKOUT is github.com/ws-choi/ISMIR2020_U_Nets_SVS. It needs torch and librosa (0.11.0 was used);
of Lightning 0.9 and torch 1.6, for which the original was written, only what it touches is put in
their place. The weights are random, of a small size, and saved as the original saves them.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

N_FFT, HOP, FRAMES, TRIM = 64, 16, 32, 100
# The older code's hop is a part of the transform; its pieces are 856 samples, of which here two fit
# exactly, so that a whole one of zeros follows.
OLD_HOP, OLD_SAMPLES = 32, 1712
SAMPLES = 1000
COMMON = {
    "target_name": "vocals",
    "n_fft": N_FFT,
    "hop_length": HOP,
    "num_frame": FRAMES,
    "optimizer": "adam",
    "lr": 1e-3,
    "dev_mode": False,
    "train_loss": "spec_mse",
    "val_loss": "raw_l1",
    "layer_level_init_weight": False,
    "unfreeze_stft_from": -1,
    "n_internal_layers": 2,
    "f_down_layers": None,
    "kernel_size_t": 3,
    "kernel_size_f": 3,
    "bn_factor": 4,
    "min_bn_units": 6,
    "first_conv_activation": "relu",
}
COMPLEX = {"spec_type": "complex", "input_channels": 4}
MAGNITUDE = {"spec_type": "magnitude", "input_channels": 2}
CASES: dict[str, dict[str, Any]] = {
    "tfc": MAGNITUDE
    | {"spec_est_mode": "masking", "last_activation": "sigmoid", "tfc_activation": "leaky_relu"}
    | {"n_blocks": 5, "internal_channels": 3, "t_down_layers": "[1]"},
    "tdf": COMPLEX
    | {"spec_est_mode": "masking", "last_activation": "tanh", "tdf_activation": "relu"}
    | {"n_blocks": 3, "internal_channels": 24, "t_down_layers": None}
    | {"bn_factor": None, "bias": False},
    "tdc": MAGNITUDE
    | {"spec_est_mode": "masking", "last_activation": "relu", "tdc_activation": "relu"}
    | {"n_blocks": 3, "internal_channels": 24, "t_down_layers": None},
    "tdc_rnn": COMPLEX
    | {"spec_est_mode": "mapping", "last_activation": "identity", "tdc_rnn_activation": "relu"}
    | {"n_blocks": 3, "internal_channels": 3, "t_down_layers": None}
    | {"bn_factor_rnn": 4, "num_layers_rnn": 2, "min_bn_units_rnn": 5, "bias_rnn": True}
    | {"bn_factor_tdf": 2, "bias_tdf": False},
    "tfc_tdf": COMPLEX
    | {"spec_est_mode": "mapping", "last_activation": "identity", "tfc_tdf_activation": "relu"}
    | {"n_blocks": 5, "internal_channels": 4, "t_down_layers": None}
    | {"tfc_tdf_bias": True, "tif_init_mode": None},
}


def stand_in(name: str, **members: Any) -> None:
    """Put a module in the place of one that is imported and not needed."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


class LightningModule(nn.Module):
    """As much of Lightning as is called."""

    device = torch.device("cpu")

    def freeze(self) -> None:
        """Keep an optimiser away from the parameters."""
        for parameter in self.parameters():
            parameter.requires_grad = False

    def save_hyperparameters(self, *_: str) -> None:
        """Lightning's notes for a checkpoint, which is written by hand here."""


class AttributeDict(dict):  # type: ignore[type-arg]  # pickled by name: what Lightning 0.9 wraps around hyper-parameters
    """Its name is what a checkpoint holds."""


AttributeDict.__module__ = "pytorch_lightning.utilities.parsing"


def record_sound() -> None:
    """Leave out sixteen bits on disk and back, so that what was computed is compared."""
    tape: dict[str, Any] = {}
    stand_in(
        "soundfile",
        write=lambda name, audio, rate: tape.update({name: audio}),
        read=lambda name: (tape[name], 44100),
    )


def use_old_transforms() -> None:
    """Let torch's transforms give and take pairs of real numbers, as they did."""
    transform, inverse = torch.stft, torch.istft

    def stft(*args: Any, **options: Any) -> torch.Tensor:
        return torch.view_as_real(transform(*args, **options, return_complex=True))

    def istft(spectrum: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return inverse(torch.view_as_complex(spectrum.contiguous()), *args, **options)

    torch.stft, torch.istft = stft, istft


def prepare(checkout: Path) -> None:
    """Make the original importable, both its present and its older code."""
    stand_in("pytorch_lightning", LightningModule=LightningModule, EvalResult=None)
    stand_in("pytorch_lightning.loggers", WandbLogger=None)
    stand_in("pytorch_lightning.utilities")
    stand_in("pytorch_lightning.utilities.parsing", AttributeDict=AttributeDict)
    for name in ("wandb", "pydub", "musdb", "museval", "IPython", "IPython.display", "matplotlib"):
        stand_in(name)
    stand_in("matplotlib.pyplot")
    stand_in("tqdm", tqdm=iter, tqdm_notebook=iter)
    record_sound()
    use_old_transforms()
    sys.path[:0] = [str(checkout), str(checkout / ".deprecated")]
    fourier = importlib.import_module("source_separation.utils.fourier")
    fourier.get_trim_length.__defaults__ = (TRIM,)


def randomise(net: nn.Module, seed: int) -> None:
    """Give every parameter and statistic values that hide nothing."""
    dice = torch.Generator().manual_seed(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if not tensor.is_floating_point() or name == "stft.stft.window":
            continue
        normal = torch.randn(tensor.shape, generator=dice)
        if name.endswith("running_var"):
            values = 0.5 + normal.square()
        elif tensor.dim() > 1:
            values = 1.5 * normal / tensor[0].numel() ** 0.5
        else:
            values = 1 + 0.3 * normal if name.endswith("weight") else 0.3 * normal
        with torch.no_grad():
            tensor.copy_(values)


def compose(samples: int) -> np.ndarray:
    """Return noise and two tones. Shape (samples, 2)."""
    dice = np.random.default_rng(7)
    time_s = np.arange(samples) / 44100
    tones = 0.5 * np.sin(2 * np.pi * 700 * time_s) + 0.3 * np.sin(2 * np.pi * 5200 * time_s)
    noise = 0.2 * dice.standard_normal((samples, 2))
    return (np.outer(tones, [1.0, 0.6]) + noise).astype(np.float32)


def record(folder: Path, name: str, seed: int) -> None:
    """Record one network of the present code."""
    module = importlib.import_module(f"source_separation.models.{name}_net")
    settings = {**COMMON, **CASES[name]}
    model = getattr(module, f"{name.upper()}_NET_Framework")(**settings).eval()
    randomise(model, seed)
    planes = torch.randn(
        1, settings["input_channels"], 8, N_FFT // 2 + 1, generator=torch.Generator().manual_seed(1)
    )
    song = compose(SAMPLES)
    with torch.no_grad():
        net = model.spec2spec(planes)
        heard = model.separate_track(song)[:SAMPLES]
    checkpoint = {
        "epoch": 892,
        "global_step": 1234,
        "pytorch-lightning_version": "0.9.0",
        "checkpoint_callback_best_model_score": torch.tensor(0.25),
        "checkpoint_callback_best_model_path": "etc/checkpoints/vocals_epoch=891.ckpt",
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}}],
        "lr_schedulers": [],
        "state_dict": model.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": AttributeDict(settings),
    }
    torch.save(checkpoint, folder / f"unet_{name}.ckpt")
    save(folder / f"unet_{name}.npz", planes, net, song, heard)


def record_older(folder: Path, name: str, seed: int) -> None:
    """Record one network of the code that came with the paper."""
    layers = importlib.import_module("intermediate_layers")
    utils = importlib.import_module("utils_ismir")
    factor = N_FFT // OLD_HOP
    loader = utils.MusdbLoaer(n_fft=N_FFT, hop_factor=factor, dim_t=FRAMES, trim=TRIM, device="cpu")
    if name == "tdc":
        model = importlib.import_module("frameworks").U_Net_Framework(
            loader,
            "cac_mapping",
            24,
            3,
            lambda wide_in, wide_out, f, i: layers.TDC(wide_in, 2, wide_out, 3),
            lambda i, f: (layers.TDC_sampling(24, "downsampling"), f // 2),
            lambda i, f, n: (layers.TDC_sampling(24, "upsampling"), f * 2),
        )
    else:
        kinds = importlib.import_module("models")
        model = kinds.TFC_TIF_U_NET(loader, "masking_tanh", 4, 5, 2, t_scale=[0])
    randomise(model.eval(), seed)
    planes = torch.randn(1, 4, N_FFT // 2 + 1, 8, generator=torch.Generator().manual_seed(1))
    song = compose(OLD_SAMPLES)
    with torch.no_grad():
        net = model(planes)
        # float64, because the padding is; the network is not.
        stft = loader.to_specs
        loader.to_specs = lambda signal: np.asarray(stft(signal), np.float32)
        heard = utils.separate(loader, model, song.T).T
    state = model.state_dict()
    if name == "tfc_tdf":
        state = {f"module.{key}": value for key, value in state.items()}
    path = folder / f"unet_paper_{name}.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    save(folder / f"unet_paper_{name}.npz", planes, net, song, heard)


def save(
    path: Path, planes: torch.Tensor, net: torch.Tensor, song: np.ndarray, heard: np.ndarray
) -> None:
    arrays = {"planes": planes.numpy(), "net": net.numpy(), "song": song.T, "heard": heard.T}
    np.savez_compressed(path, **{key: np.asarray(one, np.float32) for key, one in arrays.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of the original")
    parser.add_argument("folder", type=Path, help="where to write; tests/goldens")
    options = parser.parse_args()
    prepare(options.checkout)
    for seed, name in enumerate(CASES):
        record(options.folder, name, seed)
    for seed, name in enumerate(("tdc", "tfc_tdf")):
        record_older(options.folder, name, seed + 10)


if __name__ == "__main__":
    main()
