"""Record what LaSAFT and its relatives compute, for tests/models/test_lasaft.py.

    python tools/goldens/lasaft.py CHECKOUT tests/goldens

CHECKOUT is github.com/ws-choi/Conditioned-Source-Separation-LaSAFT. It needs torch; of Lightning
and the older torch, for which the original was written, only what it touches is put in their place.
The weights are random, of a small size, and saved in the layouts of its two releases.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from unet import LightningModule, compose, randomise, record_sound, stand_in, use_old_transforms

STEMS = ("vocals", "drums", "bass", "other")
N_FFT, HOP, FRAMES, TRIM = 64, 16, 32, 100
# The last but one piece ends so near to the song's end that it counts in full.
SAMPLES = 1000
COMMON = {
    "n_fft": N_FFT,
    "hop_length": HOP,
    "num_frame": FRAMES,
    "spec_type": "complex",
    "spec_est_mode": "mapping",
    "optimizer": "adam",
    "lr": 1e-3,
    "auto_lr_schedule": True,
    "train_loss": "spec_mse",
    "val_loss": "raw_l1",
    "n_blocks": 3,
    "input_channels": 4,
    "internal_channels": 3,
    "n_internal_layers": 2,
    "first_conv_activation": "relu",
    "last_activation": "identity",
    "t_down_layers": None,
    "f_down_layers": None,
    "kernel_size_t": 3,
    "kernel_size_f": 3,
    "bn_factor": 4,
    "min_bn_units": 6,
    "tfc_tdf_activation": "relu",
    "tfc_activation": "relu",
    "control_vector_type": "embedding",
    "control_input_dim": 4,
    "embedding_dim": 5,
    "control_type": "dense",
    "control_n_layer": 4,
    "num_tdfs": 3,
    "dk": 4,
    "film_type": "complex",
    "pocm_type": "matmul",
}
CASES: dict[str, dict[str, Any]] = {
    "gpocm_lasaft": {"condition_to": "decoder", "pocm_norm": "batch_norm", "tfc_tdf_bias": False},
    "gpocm_lightsaft": {"condition_to": "full", "pocm_norm": "batch_norm", "tfc_tdf_bias": True},
    "gpocm": {"condition_to": "decoder", "pocm_norm": None, "n_blocks": 5},
    "film_tdf": {"condition_to": "encoder", "tfc_tdf_bias": True}
    | {"gamma_activation": "sigmoid", "beta_activation": "tanh"},
}
OVERLAPS = {"gpocm_lasaft": 0.5, "gpocm_lightsaft": 0.25, "gpocm": 0.0, "film_tdf": 0.5}
SPELLED = {"gpocm": "GPoCM", "film": "FiLM", "lasaft": "LaSAFT", "lightsaft": "LightSAFT"}


def prepare(checkout: Path) -> tuple[type, type]:
    """Make the original importable; return the callbacks whose states a checkpoint holds."""
    classes = []
    stand_in("pytorch_lightning", LightningModule=LightningModule, Trainer=None)
    stand_in("pytorch_lightning.loggers", WandbLogger=None)
    stand_in("pytorch_lightning.utilities", rank_zero_only=lambda call: call)
    stand_in("pytorch_lightning.callbacks")
    for module, name in (
        ("model_checkpoint", "ModelCheckpoint"),
        ("early_stopping", "EarlyStopping"),
    ):
        path = f"pytorch_lightning.callbacks.{module}"
        classes.append(type(name, (), {"__module__": path}))
        stand_in(path, **{name: classes[-1]})
    for name in ("wandb", "pydub", "musdb", "museval", "wget"):
        stand_in(name)
    stand_in("omegaconf", DictConfig=dict, OmegaConf=None)
    stand_in("hydra")
    stand_in("hydra.utils", to_absolute_path=str)
    stand_in("tqdm", tqdm=iter)
    record_sound()
    use_old_transforms()
    sys.path.insert(0, str(checkout))
    fourier = importlib.import_module("lasaft.utils.fourier")
    fourier.get_trim_length.__defaults__ = (TRIM,)
    return classes[0], classes[1]


def record(folder: Path, name: str, seed: int, callbacks: tuple[type, type]) -> None:
    """Record one network, and save it as the earlier release did, or the later one."""
    package = "lasaft.source_separation.conditioned.cunet.models"
    module = importlib.import_module(f"{package}.dcun_tfc_{name}")
    spelled = "_".join(SPELLED.get(part, part.upper()) for part in name.split("_"))
    settings = {**COMMON, **CASES[name]}
    model = getattr(module, f"DCUN_TFC_{spelled}_Framework")(**settings).eval()
    randomise(model, seed)
    planes = torch.randn(
        1, settings["input_channels"], 8, N_FFT // 2 + 1, generator=torch.Generator().manual_seed(1)
    )
    song = compose(SAMPLES)
    with torch.no_grad():
        net = [model.spec2spec(planes, torch.tensor([place])) for place in range(len(STEMS))]
    heard = [model.separate_track(song, stem, OVERLAPS[name])[:SAMPLES] for stem in STEMS]
    states = {
        callbacks[0]: {"best_model_score": torch.tensor(0.25), "best_model_path": "epoch=9.ckpt"},
        callbacks[1]: {"wait_count": 3, "best_score": torch.tensor(0.25)},
    }
    is_earlier = name == "gpocm_lasaft"
    losses = {} if is_earlier else {"train_loss": model.train_loss, "val_loss": model.val_loss}
    checkpoint = {
        "epoch": 10,
        "global_step": 1234,
        "pytorch-lightning_version": "1.1.6" if is_earlier else "1.3.8",
        "callbacks": states,
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}}],
        "lr_schedulers": [{"factor": 0.5, "last_epoch": 9, "_last_lr": [1e-4]}],
        "native_amp_scaling_state": {"scale": 65536.0, "_growth_tracker": 3},
        "state_dict": model.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": {**settings, **losses},
    }
    torch.save(checkpoint, folder / f"lasaft_{name}.ckpt")
    arrays = {
        "planes": planes.numpy(),
        "net": torch.stack(net, dim=1).numpy(),
        "song": song.T,
        "heard": np.stack(heard).transpose(0, 2, 1),
    }
    floats = {key: np.asarray(one, np.float32) for key, one in arrays.items()}
    np.savez_compressed(folder / f"lasaft_{name}.npz", **floats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of the original")
    parser.add_argument("folder", type=Path, help="where to write; tests/goldens")
    options = parser.parse_args()
    callbacks = prepare(options.checkout)
    for seed, name in enumerate(CASES):
        record(options.folder, name, seed, callbacks)


if __name__ == "__main__":
    main()
