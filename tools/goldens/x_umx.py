"""Record what Sony's X-UMX and Open-Unmix compute in NNabla, for tests/models/test_x_umx.py.

    python tools/goldens/x_umx.py CHECKOUT tests/goldens

CHECKOUT is the folder x-umx of github.com/sony/ai-research-code. It needs a Python that NNabla has
a wheel for (3.10), with nnabla, norbert, scipy and tqdm; the goldens were made with nnabla 1.39.0
and norbert 0.2.1. The weights are random, of a small size, and saved by NNabla itself.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

STEMS = ("bass", "drums", "vocals", "other")
UMX_STEMS = ("vocals", "drums")
N_FFT, HOP, HIDDEN = 32, 8, 16
PUBLISHED = (4096, 1024, 512)
# More than the 300 frames that Open-Unmix's other filter takes at a time, and a part of a hop.
SAMPLES = 2503
# The masks of every frame would be most of a golden: these frames are enough.
EVERY = 4
# Imported at the top there, and not used by what is called here.
STAND_INS = ("pydub", "pydub.utils", "resampy", "soundfile", "sklearn", "sklearn.preprocessing")


def import_originals(checkout: Path) -> tuple[Any, Any, Any]:
    """Return nnabla and the original's modules `model` and `test`."""
    for name in STAND_INS:
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["pydub"])["AudioSegment"] = None
    vars(sys.modules["pydub.utils"])["mediainfo"] = None
    sys.path.insert(0, str(checkout))
    sys.modules.pop("test", None)
    nnabla = importlib.import_module("nnabla")
    nnabla.set_auto_forward(True)
    return nnabla, importlib.import_module("model"), importlib.import_module("test")


def shrink(model: Any, test: Any, n_fft: int, hop: int, hidden: int) -> int:
    """Put other sizes where the original has its defaults; return how many bins it looks at."""
    code = model.BaseClass.__init__
    names = code.__code__.co_varnames[1 : code.__code__.co_argcount]
    sizes = {"n_fft": n_fft, "n_hop": hop, "hidden_size": hidden}
    code.__defaults__ = tuple(
        sizes.get(name, default) for name, default in zip(names, code.__defaults__, strict=True)
    )
    model.get_stft.__defaults__ = (n_fft, hop, True)
    count = importlib.import_module("utils").bandwidth_to_max_bin
    test.bandwidth_to_max_bin = lambda **given: count(**{**given, "n_fft": n_fft})
    return int(count(44100, n_fft, 16000))


def randomise(parameters: dict[str, Any], n_fft: int, seed: int) -> None:
    """Give every parameter and statistic values such that masks are neither all 0 nor all 1."""
    loudness = n_fft / N_FFT
    dice = np.random.default_rng(seed)
    for name, parameter in parameters.items():
        normal = dice.standard_normal(parameter.shape)
        if "input_mean" in name:
            values = (-1 + 0.4 * normal) * loudness
        elif "input_scale" in name:
            values = (0.5 + 0.2 * normal) / loudness
        elif "output_" in name:
            values = 0.5 + 0.2 * normal
        elif name.endswith("var"):
            values = 0.5 + normal**2
        elif name.endswith("gamma"):
            values = 1 + 0.3 * normal
        elif name.endswith(("beta", "mean", "bias")):
            values = 0.3 * normal
        else:
            inputs = parameter.shape[0 if name.endswith("affine/W") else -1]
            values = normal / inputs**0.5
        parameter.d = values.astype(np.float32)


def compose(samples: int) -> np.ndarray:
    """Return noise and two tones, loud enough for the filter's scaling. Shape (samples, 2)."""
    dice = np.random.default_rng(7)
    time_s = np.arange(samples) / 44100
    tones = 0.5 * np.sin(2 * np.pi * 700 * time_s) + 0.3 * np.sin(2 * np.pi * 5200 * time_s)
    noise = 0.4 * dice.standard_normal((samples, 2))
    return (2 * np.outer(tones, [1.0, 0.6]) + noise).astype(np.float32)


def record(args: argparse.Namespace) -> None:
    nn, model, test = import_originals(args.checkout)
    n_fft, hop, hidden = PUBLISHED if args.published_size else (N_FFT, HOP, HIDDEN)
    bins = shrink(model, test, n_fft, hop, hidden)
    samples = SAMPLES * n_fft // N_FFT
    audio = compose(samples)
    mixture = nn.Variable.from_numpy_array(audio.T[None])

    net = model.OpenUnmix_CrossNet(max_bin=bins, is_predict=True)
    net(mixture, test=True)
    randomise(nn.get_parameters(grad_only=False), n_fft, seed=0)
    nn.save_parameters(str(args.folder / "x_umx.h5"))
    magnitude, masks, _ = net(mixture, test=True)
    asked = argparse.Namespace(
        umx_infer=False, model=str(args.folder / "x_umx.h5"), targets=list(STEMS), niter=1
    )
    vars(asked).update(softmask=False, residual_model=False, alpha=1.0)
    songs = test.separate(audio, asked)
    arrays = {f"song_{stem}": songs[stem].T for stem in STEMS}
    save(args.folder / "x_umx.npz", audio, magnitude, {"masks": masks.d[::EVERY, 0]} | arrays)

    nn.clear_parameters()
    arrays = {}
    for seed, stem in enumerate(UMX_STEMS):
        with nn.parameter_scope(stem):
            single = model.OpenUnmix(max_bin=bins)
            single(mixture, test=True)
            randomise(nn.get_parameters(grad_only=False), n_fft, seed=seed + 1)
            nn.save_parameters(str(args.folder / f"{stem}.h5"))
            arrays[f"net_{stem}"] = single(mixture, test=True).d[::EVERY, 0].copy()
    asked.umx_infer, asked.model, asked.targets = True, str(args.folder), list(UMX_STEMS)
    songs = test.separate(audio, asked)
    arrays |= {f"song_{stem}": songs[stem].T for stem in UMX_STEMS}
    save(args.folder / "umx_nnabla.npz", audio, magnitude, arrays)
    for stem in UMX_STEMS:
        (args.folder / f"{stem}.h5").rename(args.folder / f"umx_nnabla_{stem}.h5")


def save(path: Path, audio: np.ndarray, magnitude: Any, arrays: dict[str, Any]) -> None:
    floats = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    np.savez_compressed(path, mixture=audio.T, magnitude=magnitude.d[:, 0], **floats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="the folder x-umx of the original")
    parser.add_argument("folder", type=Path, help="where to write; tests/goldens")
    parser.add_argument("--published-size", action="store_true", help="not for git: 142 MB")
    record(parser.parse_args())


if __name__ == "__main__":
    main()
