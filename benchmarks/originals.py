"""A song, whole processes, the same weights: stemsplit beside the authors' own code.

    python benchmarks/originals.py [umx x-umx ...] [--seconds 300] [--runs 1] [--alone]
        [--original x-umx=CHECKOUT ...] [--python x-umx=PYTHON ...]

The originals make random weights of the published sizes, in their own file formats; stemsplit opens
these files by path. Both then separate the same song into 16-bit WAVs, in processes of their own,
in turn. Before that, `--check` seconds of it go through both in the authors' framing, and the SNR
of the worst stem says how far the two agree. What the originals need:

umx            the package openunmix (1.3.0; `python benchmarks/peers.py` makes its environment)
x-umx, umx-nnabla    x-umx of github.com/sony/ai-research-code, and a Python with NNabla (3.10)
d3net          d3net/music-source-separation of the same, and the same Python: vocals
unet-tfc-tdf   github.com/ws-choi/ISMIR2020_U_Nets_SVS: the larger network, vocals
unet-tdc       the same: the network whose frames know nothing of each other, vocals
lasaft         github.com/ws-choi/Conditioned-Source-Separation-LaSAFT: four stems
bsrnn          github.com/amanteur/BandSplitRNN-PyTorch, with its requirements: vocals

An original that is not at hand is left out, and said to be.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The originals' Pythons know nothing of stemsplit: what imports it is imported where it is needed.
from train_step import import_umx, load_tool, name_stand_ins

STEMS = ("vocals", "drums", "bass", "other")
PUBLISHED_TRIM = 5000
Stems = Mapping[str, np.ndarray]


class Original(NamedTuple):
    """How an original is run.

    Attributes:
        make: Writes random weights into a folder, given (checkout, folder); returns what `-m` is.
        separate: Takes (checkout, weights, song (samples, 2)) to stems of the same shape.
        options: What makes stemsplit do the same work.
    """

    make: Callable[[Path, Path], Path]
    separate: Callable[[Path, Path, np.ndarray], Stems]
    options: tuple[str, ...] = ()


def build_umx(model: Any) -> dict[str, Any]:
    return {stem: model.OpenUnmix(nb_bins=2049, hidden_size=512, max_bin=1487) for stem in STEMS}


def make_umx(_: Path, folder: Path) -> Path:
    torch, model = import_umx()
    torch.manual_seed(0)
    for stem, net in build_umx(model).items():
        torch.save(net.state_dict(), folder / f"{stem}.pth")
    return folder


def separate_umx(_: Path, weights: Path, song: np.ndarray) -> Stems:
    torch, model = import_umx()
    nets = build_umx(model)
    for stem, net in nets.items():
        net.load_state_dict(torch.load(weights / f"{stem}.pth", weights_only=True))
    separator = model.Separator(nets, niter=1, wiener_win_len=300).eval()
    with torch.no_grad():
        given = separator(torch.from_numpy(song.T).unsqueeze(0))[0]
    return dict(zip(STEMS, given.numpy().transpose(0, 2, 1), strict=True))


def import_x_umx(checkout: Path) -> tuple[Any, Any, Any, Any, int]:
    tool = load_tool("x_umx")
    nn, model, test = tool.import_originals(checkout)
    return tool, nn, model, test, tool.shrink(model, test, *tool.PUBLISHED)


def make_x_umx(checkout: Path, folder: Path) -> Path:
    tool, nn, model, _, bins = import_x_umx(checkout)
    mixture = nn.Variable.from_numpy_array(tool.compose(44100).T[None])
    model.OpenUnmix_CrossNet(max_bin=bins, is_predict=True)(mixture, test=True)
    tool.randomise(nn.get_parameters(grad_only=False), tool.PUBLISHED[0], seed=0)
    nn.save_parameters(str(folder / "x-umx.h5"))
    return folder / "x-umx.h5"


def make_umx_nnabla(checkout: Path, folder: Path) -> Path:
    tool, nn, model, _, bins = import_x_umx(checkout)
    mixture = nn.Variable.from_numpy_array(tool.compose(44100).T[None])
    for seed, stem in enumerate(STEMS):
        with nn.parameter_scope(stem):
            model.OpenUnmix(max_bin=bins)(mixture, test=True)
            tool.randomise(nn.get_parameters(grad_only=False), tool.PUBLISHED[0], seed=seed)
            nn.save_parameters(str(folder / f"{stem}.h5"))
    return folder


def separate_x_umx(checkout: Path, weights: Path, song: np.ndarray) -> Stems:
    tool, _, _, test, _ = import_x_umx(checkout)
    # The order in which X-UMX has its stems; Open-Unmix takes any.
    asked = argparse.Namespace(
        umx_infer=weights.is_dir(), model=str(weights), targets=list(tool.STEMS), niter=1
    )
    vars(asked).update(softmask=False, residual_model=False, alpha=1.0)
    given: Stems = test.separate(song, asked)
    return given


def import_d3net(checkout: Path) -> tuple[Any, Any, Any, Any]:
    tool = load_tool("d3net")
    nn, util, _ = tool.import_originals(checkout)
    yaml = importlib.import_module("yaml")
    hparams = yaml.safe_load((checkout / "configs" / "vocals.yaml").read_text())
    return tool, nn, util, hparams


def make_d3net(checkout: Path, folder: Path) -> Path:
    _, nn, util, hparams = import_d3net(checkout)
    shape = (1, hparams["test_patch_len"], 2, hparams["fft_size"] // 2 + 1)
    with nn.parameter_scope("vocals"):
        util.D3NetMSS(hparams, test=True)(nn.Variable(shape))
    # As before training: at this size the tool's weights leave what single precision holds.
    nn.save_parameters(str(folder / "vocals.h5"))
    return folder / "vocals.h5"


def separate_d3net(checkout: Path, weights: Path, song: np.ndarray) -> Stems:
    tool, nn, util, hparams = import_d3net(checkout)
    nn.set_auto_forward(False)
    spectrum = tool.transform(song, 4096, 1024)
    nn.load_parameters(str(weights))
    with nn.parameter_scope("vocals"):
        found = util.model_separate(np.abs(spectrum), hparams, ch_flip_average=True)
    # Without the filter, which needs all stems, for minutes each.
    estimate = found * np.exp(1j * np.angle(spectrum))
    return {"vocals": util.stft2time_domain(estimate, 1024)}


UNET_SIZES: Mapping[str, Mapping[str, Any]] = {
    "tfc_tdf": {"n_fft": 4096, "num_frame": 128, "n_blocks": 9}
    | {"bn_factor": 16, "min_bn_units": 16, "tfc_tdf_bias": True},
    # As its published weights have it.
    "tdc": {"n_fft": 2048, "num_frame": 64, "n_blocks": 17}
    | {"spec_type": "complex", "input_channels": 4, "spec_est_mode": "mapping"}
    | {"last_activation": "identity"},
}


def import_unet(case: str, checkout: Path) -> tuple[Any, Any, Any]:
    torch, tool = importlib.import_module("torch"), load_tool("unet")
    tool.prepare(checkout)
    name_stand_ins()
    # As published: the tool's networks are too small for that.
    fourier = importlib.import_module("source_separation.utils.fourier")
    fourier.get_trim_length.__defaults__ = (PUBLISHED_TRIM,)
    module = importlib.import_module(f"source_separation.models.{case}_net")
    sizes = {"hop_length": 1024, "internal_channels": 24, "n_internal_layers": 5}
    settings = {**tool.COMMON, **tool.CASES[case], **sizes, **UNET_SIZES[case]}
    framework = getattr(module, f"{case.upper()}_NET_Framework")
    return torch, tool, (settings, framework(**settings).eval())


def save_lightning(torch: Any, model: Any, settings: Any, path: Path) -> Path:
    """Write a checkpoint as the originals' training leaves one."""
    torch.save(
        {
            "epoch": 1,
            "global_step": 1,
            "pytorch-lightning_version": "0.9.0",
            "state_dict": model.state_dict(),
            "hparams_name": "kwargs",
            "hyper_parameters": dict(settings),
        },
        path,
    )
    return path


def make_unet(case: str, checkout: Path, folder: Path) -> Path:
    torch, tool, (settings, model) = import_unet(case, checkout)
    tool.randomise(model, 0)
    return save_lightning(torch, model, settings, folder / "vocals.ckpt")


def separate_unet(case: str, checkout: Path, weights: Path, song: np.ndarray) -> Stems:
    torch, _, (_, model) = import_unet(case, checkout)
    model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    with torch.no_grad():
        return {"vocals": model.separate_track(song)[: len(song)]}


def import_lasaft(checkout: Path) -> tuple[Any, Any, Any]:
    torch, tool = importlib.import_module("torch"), load_tool("lasaft")
    tool.prepare(checkout)
    name_stand_ins()
    fourier = importlib.import_module("lasaft.utils.fourier")
    fourier.get_trim_length.__defaults__ = (PUBLISHED_TRIM,)
    package = "lasaft.source_separation.conditioned.cunet.models"
    module = importlib.import_module(f"{package}.dcun_tfc_gpocm_lasaft")
    sizes = {"n_fft": 4096, "hop_length": 1024, "num_frame": 128, "n_blocks": 9}
    sizes |= {"internal_channels": 24, "n_internal_layers": 5, "bn_factor": 16, "min_bn_units": 16}
    sizes |= {"embedding_dim": 32, "num_tdfs": 6, "dk": 32}
    settings = {**tool.COMMON, **tool.CASES["gpocm_lasaft"], **sizes}
    return torch, tool, (settings, module.DCUN_TFC_GPoCM_LaSAFT_Framework(**settings).eval())


def make_lasaft(checkout: Path, folder: Path) -> Path:
    # As before training: at this size the tool's weights make rounding an error of -40 dB.
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    _, _, (settings, model) = import_lasaft(checkout)
    return save_lightning(torch, model, settings, folder / "lasaft.ckpt")


def separate_lasaft(checkout: Path, weights: Path, song: np.ndarray) -> Stems:
    torch, _, (_, model) = import_lasaft(checkout)
    model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    with torch.no_grad():
        return {stem: model.separate_track(song, stem, 0.5)[: len(song)] for stem in STEMS}


def import_bsrnn(checkout: Path) -> tuple[Any, Any, Any]:
    source = checkout / "src"
    sys.path.insert(0, str(source))
    separator = importlib.import_module("separator")
    hparams = source / "saved_models" / "vocals" / "hparams.yaml"
    cfg = importlib.import_module("omegaconf").OmegaConf.load(hparams)
    return importlib.import_module("torch"), separator, cfg


def make_bsrnn(checkout: Path, folder: Path) -> Path:
    torch, separator, cfg = import_bsrnn(checkout)
    torch.manual_seed(0)
    torch.save(separator.initialize_model(cfg)[0].state_dict(), folder / "vocals.pt")
    hparams = checkout / "src" / "saved_models" / "vocals" / "hparams.yaml"
    (folder / "hparams.yaml").write_bytes(hparams.read_bytes())
    return folder / "vocals.pt"


def separate_bsrnn(checkout: Path, weights: Path, song: np.ndarray) -> Stems:
    torch, separator, cfg = import_bsrnn(checkout)
    net = separator.Separator(cfg, str(weights)).eval()
    with torch.no_grad():
        return {"vocals": net(torch.from_numpy(song.T.copy())).numpy().T}


WIENER = ("--wiener", "1")
ORIGINALS: Mapping[str, Original] = {
    "umx": Original(make_umx, separate_umx, WIENER),
    "umx-nnabla": Original(make_umx_nnabla, separate_x_umx, WIENER),
    "x-umx": Original(make_x_umx, separate_x_umx, WIENER),
    "d3net": Original(make_d3net, separate_d3net, ("--stems", "vocals")),
    **{
        f"unet-{case.replace('_', '-')}": Original(
            partial(make_unet, case), partial(separate_unet, case), ("--stems", "vocals")
        )
        for case in UNET_SIZES
    },
    "lasaft": Original(make_lasaft, separate_lasaft),
    "bsrnn": Original(make_bsrnn, separate_bsrnn, ("--stems", "vocals")),
}


def read_song(path: Path) -> np.ndarray:
    """Return a 16-bit stereo WAV. Shape (samples, 2)."""
    with wave.open(str(path), "rb") as song:
        pcm = np.frombuffer(song.readframes(song.getnframes()), "<i2")
    return (pcm.reshape(-1, 2) / 32768).astype(np.float32)


def write_stem(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def run_side(name: str, options: argparse.Namespace) -> None:
    """Be the original, in a process of its own."""
    checkout = Path(dict(pair.split("=", 1) for pair in options.original).get(name, ".")).resolve()
    first, *rest = (Path(word) for word in options.side[1:])
    if options.side[0] == "make":
        print(ORIGINALS[name].make(checkout, first))
        return
    song, out = rest
    out.mkdir(exist_ok=True)
    for stem, samples in ORIGINALS[name].separate(checkout, first, read_song(song)).items():
        if options.side[0] == "check":
            np.save(out / f"{stem}.npy", samples)
        else:
            write_stem(out / f"{stem}.wav", samples)


def command_side(name: str, options: argparse.Namespace, *side: object) -> list[str]:
    pythons = dict(pair.split("=", 1) for pair in options.python)
    if name == "umx" and name not in pythons:
        pythons[name] = importlib.import_module("peers").python_of("openunmix")
    words = [pythons.get(name, sys.executable), __file__, name]
    words += [word for pair in options.original for word in ("--original", pair)]
    return [*words, "--side", *map(str, side)]


def find_missing(name: str, options: argparse.Namespace) -> str:
    """Return why an original cannot be run; nothing where it can."""
    given = [pair.split("=", 1)[0] for pair in options.original]
    return "" if name == "umx" or name in given else f"no --original {name}=CHECKOUT"


def check(name: str, weights: str, folder: Path, options: argparse.Namespace) -> None:
    """Print the SNR in dB of the stem that differs most, both in the authors' framing."""
    songs = importlib.import_module("songs")
    stemsplit = importlib.import_module("stemsplit")
    song = songs.write_song(folder / "short.wav", options.check)
    side = command_side(name, options, "check", weights, song, folder / "checked")
    subprocess.run(side, check=True, stdout=subprocess.DEVNULL)
    wiener = int("--wiener" in ORIGINALS[name].options)
    model = stemsplit.load_model(weights)
    separator = stemsplit.Separator(model, framing="original", wiener=wiener)
    ours = separator.separate(str(song))
    ratios = []
    for path in (folder / "checked").glob("*.npy"):
        true = np.load(path).astype(np.float64)
        heard = ours[path.stem].numpy().T
        samples = min(len(true), len(heard))
        difference = true[:samples] - heard[:samples]
        ratios.append(10 * np.log10((true[:samples] ** 2).sum() / (difference**2).sum()))
    print(f"\n{name}: SNR in the authors' framing at least {min(ratios):.1f} dB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ORIGINALS), help=", ".join(ORIGINALS))
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--check", type=float, default=12, help="seconds; 0 for no check")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument(
        "--alone", action="store_true", help="time stemsplit alone; the original makes its weights"
    )
    parser.add_argument("--original", action="append", default=[], metavar="NAME=CHECKOUT")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.names[0], options)
        return
    paired = importlib.import_module("paired")
    songs = importlib.import_module("songs")
    for name in options.names:
        if missing := find_missing(name, options):
            print(f"{name}: left out: {missing}")
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            (folder / "weights").mkdir()
            making = command_side(name, options, "make", folder / "weights")
            done = subprocess.run(making, check=True, stdout=subprocess.PIPE, text=True)
            weights = done.stdout.splitlines()[-1]
            if options.check:
                songs.run_apart(check, name, weights, folder, options)
            songs.run_apart(songs.write_song, folder / "song.wav", options.seconds)
            song = folder / "song.wav"
            ours = ["stemsplit", song, "-m", weights, "--bits", "16", "--overwrite", "--quiet"]
            ours += [*ORIGINALS[name].options, "-o", folder / "ours"]
            sides = {"stemsplit": [*map(str, ours)]}
            if not options.alone:
                theirs = ("time", weights, song, folder / "theirs")
                sides["original"] = command_side(name, options, *theirs)
            paired.compare(sides, runs=options.runs, warm_up=False)


if __name__ == "__main__":
    main()
