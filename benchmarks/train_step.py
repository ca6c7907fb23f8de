"""Training steps per second beside the originals': the same networks, batch and machine.

    python benchmarks/train_step.py [umx lasaft ...] [--batch 2] [--device cuda]
        [--original unet-tfc-tdf=CHECKOUT] [--python x-umx=PYTHON]

A step is forward, loss, backward and Adam, in single precision, of the recipe of that name on noise
that lies in memory; behind it the originals' own networks and loss code of the same sizes, with the
same mixtures and stems. Every side runs in a process of its own, in turn, several times over. What
the originals need: umx the package openunmix (1.3.0, installed --no-deps), the others a checkout:

unet-tfc-tdf   github.com/ws-choi/ISMIR2020_U_Nets_SVS
lasaft         github.com/ws-choi/Conditioned-Source-Separation-LaSAFT; a mixture's four stems are
               four items of its batch
bsrnn          github.com/amanteur/BandSplitRNN-PyTorch, with its requirements
x-umx, d3net   x-umx and d3net/music-source-separation of github.com/sony/ai-research-code; --python
               names one that has NNabla (3.10). One stem of d3net is trained: vocals

An original that is not at hand is left out, and said to be.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RECIPES = {
    "umx": ("vocals",),
    "unet-tfc-tdf": ("vocals",),
    "lasaft": ("vocals", "drums", "bass", "other"),
    "bsrnn": ("vocals",),
    "x-umx": ("bass", "drums", "vocals", "other"),
    "d3net": ("vocals",),
    "spleeter": ("vocals", "accompaniment"),
}
TOOLS = Path(__file__).resolve().parent.parent / "tools" / "goldens"
Step = Callable[[], None]


def compose(batch: int, stems: int, samples: int) -> np.ndarray:
    """Return noise. Shape (B, S, 2, samples)."""
    return 0.1 * np.random.default_rng(0).standard_normal((batch, stems, 2, samples), np.float32)


def load_tool(name: str) -> Any:
    """Import one of the tools that record goldens: they know how to start the originals."""
    sys.path.insert(0, str(TOOLS))
    spec = importlib.util.spec_from_file_location(f"golden_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


# Each returns what one step is, given (batch, device, checkout, seconds).


def begin_ours(name: str, batch: int, device: str, seconds: float) -> Step:
    torch = importlib.import_module("torch")
    preparation = importlib.import_module("stemsplit.training.preparation")
    loader = importlib.import_module("stemsplit.training.loader")
    losses = importlib.import_module("stemsplit.training.losses")
    recipes = importlib.import_module("stemsplit.training.recipe_files")
    recipe = recipes.load_recipe(name, RECIPES[name])
    model, recipe = preparation.build_network(recipe, None, offline=True)
    model = model.to(device).train()
    count = loader.count_excerpt(model, recipe.data, centred=recipe.loss.centred)
    if recipe.data.excerpt_s:
        count = round(seconds * model.sample_rate)
    measure = losses.build_loss(recipe.loss)
    stems = torch.from_numpy(compose(batch, len(RECIPES[name]), count)).to(device)
    return of_torch(model, lambda: measure(model, stems.sum(1), stems), device)


def of_torch(net: Any, measure: Callable[[], Any], device: str) -> Step:
    """Return a step of a torch module."""
    torch = importlib.import_module("torch")
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)

    def step() -> None:
        optimiser.zero_grad()
        measure().backward()
        optimiser.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return step


def import_umx() -> tuple[Any, Any]:
    """Return torch and the package's module `model`, without the rest of the package."""
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # imported there, and not used
    package = types.ModuleType("openunmix")
    spec = importlib.util.find_spec("openunmix")
    assert spec is not None
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["openunmix"] = package
    return importlib.import_module("torch"), importlib.import_module("openunmix.model")


def begin_umx(batch: int, device: str, _: str, seconds: float) -> Step:
    torch, model = import_umx()
    net = model.OpenUnmix(nb_bins=2049, max_bin=1487).to(device).train()
    filterbank = model.make_filterbanks(n_fft=4096, n_hop=1024)[0]
    encoder = torch.nn.Sequential(filterbank, model.ComplexNorm()).to(device)
    stems = torch.from_numpy(compose(batch, 1, round(seconds * 44100))).to(device)

    def measure() -> Any:
        estimate = net(encoder(stems.sum(1)))
        return torch.nn.functional.mse_loss(estimate, encoder(stems[:, 0].contiguous()))

    return of_torch(net, measure, device)


def begin_unet(batch: int, device: str, checkout: str, _: float) -> Step:
    torch, tool = importlib.import_module("torch"), load_tool("unet")
    tool.prepare(Path(checkout))
    name_stand_ins()
    # As published: the tool's networks are too small for that.
    fourier = importlib.import_module("source_separation.utils.fourier")
    fourier.get_trim_length.__defaults__ = (5000,)
    module = importlib.import_module("source_separation.models.tfc_tdf_net")
    losses = importlib.import_module("source_separation.models.loss_functions")
    sizes = {"n_fft": 2048, "hop_length": 1024, "num_frame": 128, "n_blocks": 7}
    sizes |= {"internal_channels": 24, "n_internal_layers": 5, "bn_factor": 16, "min_bn_units": 16}
    settings = {**tool.COMMON, **tool.CASES["tfc_tdf"], **sizes, "tfc_tdf_bias": False}
    model = module.TFC_TDF_NET_Framework(**settings).to(device).train()
    stems = torch.from_numpy(compose(batch, 1, 127 * 1024)).to(device)
    mixture, target = (x.transpose(1, 2) for x in (stems.sum(1), stems[:, 0]))
    model.stft.freeze()
    compare = losses.get_loss("spec_mse", None, None)
    return of_torch(model.spec2spec, lambda: compare(model, mixture, target), device)


def begin_lasaft(batch: int, device: str, checkout: str, _: float) -> Step:
    torch, tool = importlib.import_module("torch"), load_tool("lasaft")
    tool.prepare(Path(checkout))
    name_stand_ins()
    fourier = importlib.import_module("lasaft.utils.fourier")
    fourier.get_trim_length.__defaults__ = (5000,)
    package = "lasaft.source_separation.conditioned"
    module = importlib.import_module(f"{package}.cunet.models.dcun_tfc_gpocm_lasaft")
    losses = importlib.import_module(f"{package}.loss_functions")
    sizes = {"n_fft": 2048, "hop_length": 1024, "num_frame": 128, "n_blocks": 7}
    sizes |= {"internal_channels": 24, "n_internal_layers": 5, "bn_factor": 16, "min_bn_units": 16}
    sizes |= {"embedding_dim": 32, "num_tdfs": 6, "dk": 32}
    settings = {**tool.COMMON, **tool.CASES["gpocm_lasaft"], **sizes}
    model = module.DCUN_TFC_GPoCM_LaSAFT_Framework(**settings).to(device).train()
    stems = torch.from_numpy(compose(batch, 4, 127 * 1024)).to(device)
    mixture = stems.sum(1).repeat_interleave(4, dim=0).transpose(1, 2)
    target = stems.flatten(0, 1).transpose(1, 2)
    conditions = torch.arange(4, device=device).repeat(batch)
    compare = losses.get_conditional_loss("spec_mse", None, None)
    return of_torch(model.spec2spec, lambda: compare(model, mixture, conditions, target), device)


def begin_bsrnn(batch: int, device: str, checkout: str, _: float) -> Step:
    torch = importlib.import_module("torch")
    source = Path(checkout).resolve() / "src"
    sys.path.insert(0, str(source))
    separator, parts = importlib.import_module("separator"), importlib.import_module("model")
    instantiate = importlib.import_module("hydra.utils").instantiate
    hparams = source / "saved_models" / "vocals" / "hparams.yaml"
    cfg = importlib.import_module("omegaconf").OmegaConf.load(hparams)
    net = separator.initialize_model(cfg)[0]
    transforms = [instantiate(transform) for transform in cfg.featurizer.values()]
    module = parts.PLModel(net, *transforms, torch.nn.Identity(), None, None, {})
    module = module.to(device).train()
    stems = torch.from_numpy(compose(batch, 1, 134144)).to(device)
    pair = torch.stack((stems.sum(1), stems[:, 0]), dim=1)
    return of_torch(net, lambda: module.step(pair)[0], device)


def begin_x_umx(batch: int, device: str, checkout: str, seconds: float) -> Step:
    nn, model, _ = load_tool("x_umx").import_originals(Path(checkout))
    nn.set_auto_forward(False)
    use_device(nn, device)
    losses = importlib.import_module("loss")
    stems = compose(batch, 4, round(seconds * 44100))
    mixture = nn.Variable.from_numpy_array(stems.sum(1))
    targets = nn.Variable.from_numpy_array(stems.reshape(batch, 8, -1))
    spectrum, masks, waveforms = model.OpenUnmix_CrossNet(max_bin=1487)(mixture)
    true = model.get_spectogram(*model.get_stft(targets), mono=False)
    loss = 10 * losses.sdr_loss(mixture, waveforms, targets) + losses.mse_loss(
        spectrum, masks, true
    )
    return of_nnabla(nn, loss)


def begin_d3net(batch: int, device: str, checkout: str, seconds: float) -> Step:
    sys.modules["librosa"] = types.ModuleType("librosa")  # imported there; separation alone uses it
    nn, _, _ = load_tool("d3net").import_originals(Path(checkout))
    use_device(nn, device)
    model = importlib.import_module("model")
    yaml = importlib.import_module("yaml")
    hparams = yaml.safe_load((Path(checkout) / "configs" / "vocals.yaml").read_text())
    stems = compose(batch, 1, round(seconds * 44100))
    spectra = [
        model.spectogram(*model.stft(nn.Variable.from_numpy_array(x), patch_length=256), mono=False)
        for x in (stems.sum(1), np.ascontiguousarray(stems[:, 0]))
    ]
    estimate = model.D3NetMSS(hparams, init_method="xavier")(spectra[0])
    return of_nnabla(nn, nn.functions.mean(nn.functions.squared_error(estimate, spectra[1])))


def name_stand_ins() -> None:
    """Give the tools' stand-ins what torch's optimisers look for in every module."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and getattr(module, "__spec__", module) is None:
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)


def use_device(nn: Any, device: str) -> None:
    if device.startswith("cuda"):
        context = importlib.import_module("nnabla.ext_utils").get_extension_context
        nn.set_default_context(context("cudnn"))


def of_nnabla(nn: Any, loss: Any) -> Step:
    """Return a step of an NNabla graph, as the originals' loops take it."""
    solver = importlib.import_module("nnabla.solvers").Adam(1e-5)
    solver.set_parameters(nn.get_parameters())

    def step() -> None:
        solver.zero_grad()
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        solver.update()
        float(loss.d)

    return step


ORIGINALS: dict[str, Callable[[int, str, str, float], Step]] = {
    "umx": begin_umx,
    "unet-tfc-tdf": begin_unet,
    "lasaft": begin_lasaft,
    "bsrnn": begin_bsrnn,
    "x-umx": begin_x_umx,
    "d3net": begin_d3net,
}


def measure_here(name: str, side: str, options: argparse.Namespace) -> None:
    """Time the steps of one side in this process, after one that is not counted."""
    if "torch" in sys.modules or side == "ours" or name not in ("x-umx", "d3net"):
        importlib.import_module("torch").set_num_threads(options.threads)
    checkout = dict(pair.split("=", 1) for pair in options.original).get(name, "")
    if side == "ours":
        step = begin_ours(name, options.batch, options.device, options.seconds)
    else:
        step = ORIGINALS[name](options.batch, options.device, checkout, options.seconds)
    step()
    began = time.perf_counter()
    for _ in range(options.steps):
        step()
    print(json.dumps({"steps_per_s": options.steps / (time.perf_counter() - began)}))


def measure_apart(name: str, side: str, options: argparse.Namespace) -> float:
    """Time the steps of one side in a process of its own."""
    pythons = dict(pair.split("=", 1) for pair in options.python)
    python = pythons.get(name, sys.executable) if side == "theirs" else sys.executable
    threads = {key: str(options.threads) for key in ("OMP_NUM_THREADS", "NNABLA_NUM_THREADS")}
    command = [python, __file__, name, "--side", side]
    for key in ("batch", "steps", "threads", "device", "seconds"):
        command += [f"--{key}", str(getattr(options, key))]
    for pair in options.original:
        command += ["--original", pair]
    done = subprocess.run(
        command, env={**os.environ, **threads}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = " ".join(done.stderr.strip().splitlines()[-2:])
        raise RuntimeError(f"{side} of {name} ended with {done.returncode}: {words}")
    return float(json.loads(done.stdout.splitlines()[-1])["steps_per_s"])


def find_missing(name: str, options: argparse.Namespace) -> str:
    """Return why an original cannot be run; nothing where it can."""
    if name not in ORIGINALS:
        return "it is written in TensorFlow"
    if name == "umx":
        return "" if importlib.util.find_spec("openunmix") else "openunmix is not installed"
    given = [pair.split("=", 1)[0] for pair in options.original]
    return "" if name in given else f"no --original {name}=CHECKOUT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of an excerpt, where the recipe is free in it"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--original", action="append", default=[], metavar="NAME=CHECKOUT")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure_here(options.names[0], options.side, options)
        return
    print(f"batches of {options.batch} on {options.device}; medians of {options.rounds} rounds")
    print(f"{'':14} {'ours, steps/s':>14} {'original':>10} {'ratio':>7}")
    for name in options.names:
        missing = find_missing(name, options)
        sides = ("ours",) if missing else ("ours", "theirs")
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side in sides:
                try:
                    rates[side].append(measure_apart(name, side, options))
                except RuntimeError as error:
                    if side == "ours":
                        raise
                    # For one, that it needs more memory than there is: -9.
                    missing = str(error)
        ours = statistics.median(rates["ours"])
        if missing:
            print(f"{name:14} {ours:14.3f}   left out: {missing}")
        else:
            theirs = statistics.median(rates["theirs"])
            print(f"{name:14} {ours:14.3f} {theirs:10.3f} {ours / theirs:7.2f}")


if __name__ == "__main__":
    main()
