"""Record what one training step of the originals costs, for tests/training/test_losses_parity.py.

    python tools/goldens/losses.py unet CHECKOUT tests/goldens
    python tools/goldens/losses.py lasaft CHECKOUT tests/goldens
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python tools/goldens/losses.py bsrnn CHECKOUT tests/goldens
    python tools/goldens/losses.py x-umx CHECKOUT tests/goldens
    python tools/goldens/losses.py d3net CHECKOUT tests/goldens

CHECKOUT is what unet.py, lasaft.py, bsrnn.py, x_umx.py and d3net.py beside this file take, and what
they need is needed here, and stemsplit. The weights are those that these have recorded:
tests/goldens has to hold them already. The originals' own loss code runs on their own networks in
training, dropout off; of the gradient, the norm over all parameters and the ten largest of single
ones are kept.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from saved_weights import read_saved

from stemsplit.weights.keymaps import lasaft as lasaft_keymap
from stemsplit.weights.keymaps import unet as unet_keymap

BATCH = 2
LARGEST = 10
Arrays = dict[str, np.ndarray]


def compose(stems: int, samples: int, seed: int = 11) -> np.ndarray:
    """Return stems of noise and a tone each. Shape (B, S, 2, samples)."""
    dice = np.random.default_rng(seed)
    time_s = np.arange(samples) / 44100
    tones = [np.sin(2 * np.pi * 600 * (index + 1) * time_s) for index in range(stems)]
    noise = 0.2 * dice.standard_normal((BATCH, stems, 2, samples))
    loudness = 0.4 * dice.uniform(0.5, 1, (BATCH, stems, 2, 1))
    return (noise + loudness * np.array(tones)[:, None]).astype(np.float32)


def describe(loss: Any, net: Any) -> Arrays:
    """Return a loss and the norms of its gradient; the parameters are a torch module's."""
    loss.backward()
    norms = [float(p.grad.norm()) for p in net.parameters() if p.grad is not None]
    return summarise(float(loss.detach()), norms)


def load_tool(name: str) -> Any:
    """Import a file beside this one, by a name that no original has for a package."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"golden_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def summarise(loss: float, norms: list[float]) -> Arrays:
    largest = sorted(norms, reverse=True)[:LARGEST]
    return {
        "loss": np.float64(loss),
        "gradient": np.float64(np.linalg.norm(norms)),
        "largest": np.array(largest, np.float64),
    }


def still(net: Any) -> Any:
    """Switch a torch module to training, without its dropout."""
    torch = importlib.import_module("torch")
    for module in net.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return net


def read_state(path: Path, inert: frozenset[str]) -> dict[str, Any]:
    """Return a checkpoint's tensors for the original's own network."""
    torch = importlib.import_module("torch")
    saved = read_saved(path, inert, "state_dict.")
    return {name: torch.from_numpy(array) for name, array in saved.items()}


def record_unet(checkout: Path, folder: Path) -> Arrays:
    """The five networks of the present code, each with its spectrogram's squared error."""
    torch, unet = importlib.import_module("torch"), load_tool("unet")
    unet.prepare(checkout)
    losses = importlib.import_module("source_separation.models.loss_functions")
    arrays = {"stems": compose(2, (unet.FRAMES - 1) * unet.HOP)}
    mixture, target = (
        torch.from_numpy(x).transpose(1, 2) for x in (arrays["stems"].sum(1), arrays["stems"][:, 0])
    )
    for name in unet.CASES:
        module = importlib.import_module(f"source_separation.models.{name}_net")
        settings = {**unet.COMMON, **unet.CASES[name]}
        model = getattr(module, f"{name.upper()}_NET_Framework")(**settings)
        path = folder / f"unet_{name}.ckpt"
        model.load_state_dict(read_state(path, unet_keymap.LIGHTNING_INERT))
        model.stft.freeze()
        still(model)
        loss = losses.get_loss("spec_mse", None, None)(model, mixture, target)
        arrays |= prefix(name, describe(loss, model.spec2spec))
    return arrays


def record_lasaft(checkout: Path, folder: Path) -> Arrays:
    """Every mixture with every condition, in one batch."""
    torch, lasaft = importlib.import_module("torch"), load_tool("lasaft")
    lasaft.prepare(checkout)
    package = "lasaft.source_separation.conditioned"
    losses = importlib.import_module(f"{package}.loss_functions")
    count = len(lasaft.STEMS)
    arrays = {"stems": compose(count, (lasaft.FRAMES - 1) * lasaft.HOP)}
    stems = torch.from_numpy(arrays["stems"])
    mixture = stems.sum(1).repeat_interleave(count, dim=0).transpose(1, 2)
    target = stems.flatten(0, 1).transpose(1, 2)
    conditions = torch.arange(count).repeat(BATCH)
    inert = lasaft_keymap.build_keymap(lasaft.STEMS).inert
    for name in lasaft.CASES:
        module = importlib.import_module(f"{package}.cunet.models.dcun_tfc_{name}")
        spelled = "_".join(lasaft.SPELLED.get(part, part.upper()) for part in name.split("_"))
        settings = {**lasaft.COMMON, **lasaft.CASES[name]}
        model = getattr(module, f"DCUN_TFC_{spelled}_Framework")(**settings)
        path = folder / f"lasaft_{name}.ckpt"
        model.load_state_dict(read_state(path, inert))
        still(model)
        measure = losses.get_conditional_loss("spec_mse", None, None)
        arrays |= prefix(
            name, describe(measure(model, mixture, conditions, target), model.spec2spec)
        )
    return arrays


def record_bsrnn(checkout: Path, folder: Path) -> Arrays:
    """The original's training module, without its augmentation."""
    torch, bsrnn = importlib.import_module("torch"), load_tool("bsrnn")
    sys.path.insert(0, str(checkout.resolve() / "src"))
    separator, parts = importlib.import_module("separator"), importlib.import_module("model")
    hydra = importlib.import_module("hydra.utils")
    arrays = {"stems": compose(2, (bsrnn.FRAMES - 1) * bsrnn.HOP)}
    for name in ("rnn", "attention"):
        hparams = checkout.resolve() / "src" / "saved_models" / "vocals" / "hparams.yaml"
        cfg = bsrnn.describe(hparams, bsrnn.VARIANTS[name])
        net = separator.initialize_model(cfg)[0]
        net.load_state_dict(torch.load(folder / f"bsrnn_{name}.pt"))
        transforms = [hydra.instantiate(transform) for transform in cfg.featurizer.values()]
        module = parts.PLModel(net, *transforms, torch.nn.Identity(), None, None, {})
        stems = torch.from_numpy(arrays["stems"])
        loss, _, _ = still(module).step(torch.stack((stems.sum(1), stems[:, 0]), dim=1))
        arrays |= prefix(name, describe(loss, net))
    return arrays


def record_x_umx(checkout: Path, folder: Path) -> Arrays:
    """X-UMX with its two losses; its sizes, fixed at the published ones, are the golden's."""
    tool = load_tool("x_umx")
    nn, model, test = tool.import_originals(checkout)
    bins = tool.shrink(model, test, tool.N_FFT, tool.HOP, tool.HIDDEN)
    losses = importlib.import_module("loss")
    lstm = model.PF.lstm
    model.PF.lstm = lambda *args, **options: lstm(*args, **{**options, "dropout": 0.0})
    samples = 100 * tool.HOP
    arrays = {"stems": compose(len(tool.STEMS), samples)}
    nn.load_parameters(str(folder / "x_umx.h5"))
    mixture = nn.Variable.from_numpy_array(arrays["stems"].sum(1))
    targets = nn.Variable.from_numpy_array(arrays["stems"].reshape(BATCH, -1, samples))
    net = model.OpenUnmix_CrossNet(max_bin=bins)
    spectrum, masks, waveforms = net(mixture)
    true = model.get_spectogram(*model.get_stft(targets), mono=False)
    losses_of = {
        "frequency": losses.mse_loss(spectrum, masks, true),
        "time": losses.sdr_loss(mixture, waveforms, targets),
    }
    losses_of["both"] = 10 * losses_of["time"] + losses_of["frequency"]
    for name, loss in losses_of.items():
        arrays |= prefix(name, describe_nnabla(nn, loss))
    return arrays


def record_d3net(checkout: Path, folder: Path) -> Arrays:
    """The two networks of the golden, on the first frames of an excerpt."""
    tool = load_tool("d3net")
    nn, _, _ = tool.import_originals(checkout)
    model = importlib.import_module("model")
    arrays = {"stems": compose(2, 34 * tool.HOP)}
    with tempfile.TemporaryDirectory() as work:
        weights = Path(work) / "d3net.h5"
        weights.write_bytes(gzip.decompress((folder / "d3net.h5.gz").read_bytes()))
        nn.load_parameters(str(weights))
    mixture = nn.Variable.from_numpy_array(arrays["stems"].sum(1))
    for index, (stem, hparams) in enumerate(tool.SIZES.items()):
        target = nn.Variable.from_numpy_array(np.ascontiguousarray(arrays["stems"][:, index]))
        spectra = [
            model.spectogram(
                *model.stft(x, n_fft=tool.N_FFT, n_hop=tool.HOP, patch_length=32), mono=False
            )
            for x in (mixture, target)
        ]
        with nn.parameter_scope(stem):
            estimate = model.D3NetMSS(hparams)(spectra[0])
            loss = nn.functions.mean(nn.functions.squared_error(estimate, spectra[1]))
            arrays |= prefix(stem, describe_nnabla(nn, loss))
    return arrays


def describe_nnabla(nn: Any, loss: Any) -> Arrays:
    """Return a loss and the norms of its gradient in NNabla."""
    parameters = nn.get_parameters()
    for parameter in parameters.values():
        parameter.grad.zero()
    loss.forward()
    loss.backward()
    norms = [float(np.linalg.norm(parameter.g)) for parameter in parameters.values()]
    return summarise(float(loss.d), norms)


def prefix(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}_{key}": array for key, array in arrays.items()}


RECORD: dict[str, Callable[[Path, Path], Arrays]] = {
    "unet": record_unet,
    "lasaft": record_lasaft,
    "bsrnn": record_bsrnn,
    "x-umx": record_x_umx,
    "d3net": record_d3net,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", choices=RECORD)
    parser.add_argument("checkout", type=Path, help="a checkout of the original")
    parser.add_argument("folder", type=Path, help="tests/goldens")
    args = parser.parse_args()
    arrays = RECORD[args.original](args.checkout, args.folder)
    name = args.original.replace("-", "_")
    np.savez_compressed(args.folder / f"loss_{name}.npz", **arrays)
    for key, value in arrays.items():
        if key.endswith("_loss"):
            print(f"{key:28} {value:.8f}")


if __name__ == "__main__":
    main()
