"""Record what the original BandSplitRNN computes, for tests/models/test_bsrnn.py.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python tools/goldens/bsrnn.py CHECKOUT tests/goldens

CHECKOUT is a clone of github.com/amanteur/BandSplitRNN-PyTorch. It needs stemsplit, torchaudio,
omegaconf, hydra-core, pytorch-lightning and tqdm; the goldens were made with torch 2.13,
torchaudio 2.11, omegaconf 2.3.0, hydra-core 1.3 and pytorch-lightning 2.6. The weights are random,
of a small size, and saved by the original's own means: as state dicts, and by its training with the
averaging callback. Torch's variable lets the original open its own checkpoints with a torch from
2.6 on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from saved_weights import read_saved

from stemsplit.weights.keymaps.bsrnn import build_averaged_keymap

N_FFT, HOP, FRAMES = 16, 4, 25
# 25 frames are 96 samples; windows begin every 17 of them: 5.6 at any place, as published.
CHUNK, STEP = 80, 1
SAMPLES = 601
SMALL = {
    "n_fft": N_FFT,
    "bandsplits": [[4000, 4000], [12000, 8000]],
    "t_timesteps": FRAMES,
    "fc_dim": 8,
    "rnn_dim": 5,
    "num_layers": 1,
    "mlp_dim": 6,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "rnn": {},
    "attention": {"bottleneck_layer": "att", "window": "hann"},
    "gru": {"rnn_type": "GRU", "bidirectional": False, "return_mask": True, "is_mono": True},
}


def describe(conf: Path, variant: dict[str, Any]) -> Any:
    """Return the published hparams.yaml with small sizes."""
    omegaconf = importlib.import_module("omegaconf").OmegaConf
    cfg = omegaconf.load(conf)
    cfg.model.update(SMALL)
    cfg.model.update({key: value for key, value in variant.items() if key != "window"})
    for transform in cfg.featurizer.values():
        transform.update({"n_fft": N_FFT, "win_length": N_FFT, "hop_length": HOP})
    # Half a sample more: the original cuts what is behind the point.
    seconds = {"win_size": (CHUNK + 0.5) / 44100, "hop_size": (STEP + 0.5) / 44100}
    cfg.audio_params.update({**seconds, "window": variant.get("window")})
    return cfg


def randomise(net: torch.nn.Module, seed: int) -> None:
    """Give every parameter a value that hides nothing."""
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            normal = torch.randn(parameter.shape, generator=dice)
            if "norm" in name:
                parameter.copy_(0.3 * normal + (1 if name.endswith("weight") else 0))
            elif parameter.dim() > 1:
                parameter.copy_(1.5 * normal / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.3 * normal)


def compose(channels: int) -> torch.Tensor:
    """Return noise with an offset, tones, and a silence in between. Shape (C, samples)."""
    dice = torch.Generator().manual_seed(7)
    time_s = torch.arange(SAMPLES) / 44100
    tones = 0.3 * torch.sin(2 * torch.pi * 700 * time_s) + 0.2 * torch.sin(
        2 * torch.pi * 5200 * time_s
    )
    song = 0.1 * torch.randn(channels, SAMPLES, generator=dice) + 0.02
    song += torch.linspace(1.0, 0.4, channels).unsqueeze(1) * tones
    song[:, 200:400] = 0
    return song


def train(checkout: Path, weights: dict[str, Any], folder: Path) -> Path:
    """Train for a few steps as the original does, averaging on the way; return its checkpoint."""
    os.environ.setdefault("MUSDB_DIR", "musdb")
    hydra = importlib.import_module("hydra")
    lightning = importlib.import_module("pytorch_lightning")
    trainer_of = importlib.import_module("train")
    parts = importlib.import_module("model")
    small = [f"model.{key}={value}" for key, value in SMALL.items()]
    with hydra.initialize_config_dir(str(checkout.resolve() / "src" / "conf"), version_base=None):
        cfg = hydra.compose(
            "config",
            [
                *small,
                *(
                    f"featurizer.{way}.{key}={value}"
                    for way in ("direct_transform", "inverse_transform")
                    for key, value in (("n_fft", N_FFT), ("win_length", N_FFT), ("hop_length", HOP))
                ),
                # As "seconds" at 1 Hz: a fraction of one would not be a whole number of samples.
                f"augmentations.randomcrop.chunk_size_sec={CHUNK}",
                "augmentations.randomcrop.sr=1",
                "logger._target_=pytorch_lightning.loggers.CSVLogger",
                "~logger.default_hp_metric",
                "callbacks.ema.decay=0.5",
                "callbacks.model_ckpt.dirpath=weights",
                "sch.warmup_step=0",
                "opt.lr=0.05",
                "trainer.log_every_n_steps=1",
                "trainer.max_epochs=1",
                "trainer.accelerator=cpu",
                "trainer.enable_progress_bar=False",
            ],
        )
    lightning.seed_everything(0)
    net, opt, sch = trainer_of.initialize_model(cfg)
    net.load_state_dict(weights)
    cfg.logger.save_dir = str(folder)
    logger, callbacks = trainer_of.initialize_utils(cfg)
    module = parts.PLModel(
        net,
        *trainer_of.initialize_featurizer(cfg),
        trainer_of.initialize_augmentations(cfg),
        opt,
        sch,
        cfg,
    )
    songs = compose(2).repeat(4, 2, 1, 1)
    songs[:, 1] *= 0.5
    loader = torch.utils.data.DataLoader(list(songs), batch_size=2)
    trainer = lightning.Trainer(**cfg.trainer, logger=logger, callbacks=callbacks)
    trainer.fit(module, train_dataloaders=loader, val_dataloaders=loader)
    return Path(callbacks[1].best_model_path)


def average(path: Path, net: torch.nn.Module, folder: Path) -> Path:
    """Write the averaged weights of a checkpoint as a state dict: in the order of parameters."""
    averaged = read_saved(path, build_averaged_keymap("vocals").inert, "optimizer_states.0.ema.")
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.from_numpy(averaged.pop(str(index))))
    assert not averaged, "as many averages as parameters"
    torch.save(net.state_dict(), folder / "averaged.pt")
    return folder / "averaged.pt"


def forget_place(found: Path, place: str, target: Path) -> None:
    """Copy a checkpoint with another name of the same length for the folder it was made in."""
    other = b"./" + b"x" * (len(place) - 2)
    with zipfile.ZipFile(found) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry).replace(place.encode(), other)
            new.writestr(zipfile.ZipInfo(entry.filename), content)


def record(checkout: Path, folder: Path) -> None:
    sys.path.insert(0, str(checkout.resolve() / "src"))
    separator = importlib.import_module("separator")
    hparams = checkout.resolve() / "src" / "saved_models" / "vocals" / "hparams.yaml"
    folder = folder.resolve()
    arrays: dict[str, torch.Tensor] = {}
    for seed, (name, variant) in enumerate(VARIANTS.items()):
        cfg = describe(hparams, variant)
        net = separator.initialize_model(cfg)[0].eval()
        randomise(net, seed)
        torch.save(net.state_dict(), folder / f"bsrnn_{name}.pt")
        song = compose(1 if cfg.model.is_mono else 2)
        dice = torch.Generator().manual_seed(1)
        size = (3, song.shape[0], N_FFT // 2 + 1, FRAMES)
        spectrum = torch.randn(size, dtype=torch.complex64, generator=dice) + 0.2
        with torch.no_grad():
            arrays |= {f"{name}_spectrum": spectrum, f"{name}_net": net(spectrum)}
        whole = separator.Separator(cfg, str(folder / f"bsrnn_{name}.pt")).eval()
        assert whole.ws == (FRAMES - 1) * HOP, whole.ws
        arrays |= {f"{name}_mixture": song, f"{name}_song": whole(song)}
    cfg = describe(hparams, VARIANTS["rnn"])
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        weights = torch.load(folder / "bsrnn_rnn.pt")
        found = train(checkout, weights, Path(work))
        forget_place(found, work, folder / "bsrnn.ckpt")
        arrays["raw_song"] = separator.Separator(cfg, str(found)).eval()(compose(2))
        averaged = average(found, separator.initialize_model(cfg)[0], Path(work))
        arrays["averaged_song"] = separator.Separator(cfg, str(averaged)).eval()(compose(2))
    np.savez_compressed(folder / "bsrnn.npz", **{key: t.numpy() for key, t in arrays.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="the clone of the original")
    parser.add_argument("folder", type=Path, help="where to write; tests/goldens")
    args = parser.parse_args()
    record(args.checkout.resolve(), args.folder)


if __name__ == "__main__":
    main()
