"""Record what Sony's D3Net computes in NNabla, for tests/models/test_d3net.py.

    python tools/goldens/d3net.py CHECKOUT tests/goldens

CHECKOUT is the folder d3net/music-source-separation of github.com/sony/ai-research-code. It needs a
Python that NNabla has a wheel for (3.10), with nnabla, librosa, pyyaml and tqdm; the goldens were
made with nnabla 1.39.0 and librosa 0.11.0. The weights are random, of a small size, and saved by
NNabla itself: all stems in one file, as in the release of June 2021, which is mostly HDF5's own
bookkeeping and so is compressed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

N_FFT, HOP = 64, 16
# 59 frames: they end in the second half of the last of the vocals' patches, and the first of bass'.
SAMPLES = 58 * HOP + 5
# Imported at the top there, and not used by what is called here.
STAND_INS = ("pydub", "pydub.utils", "soundfile", "sklearn")
VOCALS: dict[str, Any] = {
    "fft_size": N_FFT,
    "n_channels": 2,
    "valid_signal_idx": 24,
    "band_split_idxs": [8],
    "num_init_features": [4, 3],
    "dens_k": [[3, 4, 3], [2, 2, 2]],
    "num_layer_blocks": [[2, 3, 2], [1, 1, 1]],
    "b_n_blocks": [[2, 2, 2], [1, 1, 1]],
    "comp_rates": [[1.0, 1.0], [1.0, 1.0]],
    "f_num_init_features": 4,
    "f_dens_k": [2, 3, 3, 2, 2],
    "f_num_layer_block": [1, 2, 4, 2, 1],
    "f_n_blocks": [2] * 5,
    "f_comp_rates": [1.0] * 6,
    "ttl_num_layer_block": 3,
    "ttl_dens_k": 3,
    "test_patch_len": 16,
    "out_shift": 8,
}
BASS = VOCALS | {
    "band_split_idxs": [12],
    "num_layer_blocks": [[1, 2, 1], [1, 1, 1]],
    "ttl_num_layer_block": 2,
    "test_patch_len": 24,
    "out_shift": 12,
}
SIZES = {"vocals": VOCALS, "bass": BASS}


def import_originals(checkout: Path) -> tuple[Any, Any, Any]:
    """Return nnabla and the original's modules `util` and `filter`."""
    for name in STAND_INS:
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["pydub"])["AudioSegment"] = None
    vars(sys.modules["pydub.utils"])["mediainfo"] = None
    sys.path.insert(0, str(checkout))
    nnabla = importlib.import_module("nnabla")
    return nnabla, importlib.import_module("util"), importlib.import_module("filter")


def randomise(parameters: dict[str, Any], loudness: float, seed: int) -> None:
    """Give every parameter and statistic values such that estimates are neither all 0 nor none."""
    dice = np.random.default_rng(seed)
    for name, parameter in parameters.items():
        normal = dice.standard_normal(parameter.shape)
        if name.endswith("in_offset"):
            values = (1 + 0.3 * normal) * loudness
        elif name.endswith("in_scale"):
            values = (1 + 0.5 * normal**2) * loudness
        elif "decode_" in name:
            values = (0.6 + 0.3 * normal) * loudness
        elif name.endswith("/var"):
            values = 0.5 + normal**2
        elif name.endswith("/gamma"):
            values = 1 + 0.3 * normal
        elif name.endswith(("/beta", "/mean", "/b")):
            values = 0.3 * normal
        else:
            values = normal * (2 / np.prod(parameter.shape[1:])) ** 0.5
        parameter.d = values.astype(np.float32)


def compose(samples: int) -> np.ndarray:
    """Return noise and two tones in stereo. Shape (samples, 2)."""
    dice = np.random.default_rng(7)
    time_s = np.arange(samples) / 44100
    tones = np.sin(2 * np.pi * 700 * time_s) + 0.6 * np.sin(2 * np.pi * 5200 * time_s)
    noise = 0.3 * dice.standard_normal((samples, 2))
    return (0.5 * np.outer(tones, [1.0, 0.6]) + noise).astype(np.float32)


def transform(audio: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Return the spectrogram, padded as in the librosa of that time. Shape (N, 2, F)."""
    librosa = importlib.import_module("librosa")
    channels = [
        librosa.stft(channel, n_fft=n_fft, hop_length=hop, pad_mode="reflect").T
        for channel in audio.T
    ]
    return np.ascontiguousarray(np.stack(channels, axis=1), dtype=np.complex64)


def record(args: argparse.Namespace) -> None:
    nn, util, mwf = import_originals(args.checkout)
    sizes, n_fft, hop, samples = SIZES, N_FFT, HOP, SAMPLES
    if args.published_size:
        yaml = importlib.import_module("yaml")
        paths = {stem: args.checkout / "configs" / f"{stem}.yaml" for stem in SIZES}
        sizes = {stem: yaml.safe_load(path.read_text()) for stem, path in paths.items()}
        n_fft, hop, samples = 4096, 1024, 299 * 1024 + 5
    audio = compose(samples)
    spectrum = transform(audio, n_fft, hop)
    magnitude = np.abs(spectrum)
    loudness = (n_fft / N_FFT) ** 0.5
    arrays: dict[str, Any] = {"mixture": audio.T}
    estimates = {}
    for seed, (stem, hparams) in enumerate(sizes.items()):
        with nn.parameter_scope(stem):
            net = util.D3NetMSS(hparams, test=True)
            patch = nn.Variable.from_numpy_array(magnitude[None, : hparams["test_patch_len"]])
            net(patch)
            randomise(nn.get_parameters(grad_only=False), loudness, seed)
            result = net(patch)
            result.forward(clear_buffer=True)
            arrays[f"magnitude_{stem}"] = patch.d[0]
            arrays[f"net_{stem}"] = result.d[0].copy()
            separated = util.model_separate(magnitude, hparams, ch_flip_average=True)
        estimates[stem] = separated * np.exp(1j * np.angle(spectrum))
        arrays[f"plain_{stem}"] = util.stft2time_domain(estimates[stem], hop).T
    path = args.folder / "d3net.h5"
    nn.save_parameters(str(path))
    path.with_suffix(".h5.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    for stem, refined in mwf.apply_mwf(estimates, spectrum).items():
        arrays[f"song_{stem}"] = util.stft2time_domain(refined, hop).T
    floats = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    np.savez_compressed(args.folder / "d3net.npz", **floats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="music-source-separation of the original")
    parser.add_argument("folder", type=Path, help="where to write; tests/goldens")
    parser.add_argument("--published-size", action="store_true", help="not for git: 22 MB")
    record(parser.parse_args())


if __name__ == "__main__":
    main()
