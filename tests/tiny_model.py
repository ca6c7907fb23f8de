"""A registry of one tiny network of random weights: the same ones every time."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from stemsplit.models.spleeter import Spleeter, SpleeterConfig

STEMS = ("vocals", "accompaniment")

REGISTRY = """\
default = "tiny"

[models.tiny]
description = "random weights, for tests"
architecture = "spleeter"
stems = ["vocals", "accompaniment"]
licence = "CC0 1.0"
source_page = "https://example.org/tiny"
config = {{ widths = [2, 3, 4, 5, 6, 7], segment_frames = 64 }}

[[models.tiny.files]]
source = {source!r}
format = "safetensors"
"""


def write_tiny_registry(folder: Path) -> Path:
    """Write the weights and the registry file, and return the latter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Spleeter(SpleeterConfig.tiny(STEMS))
    tensors = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(tensors, folder / "tiny.safetensors")
    path = folder / "tiny.toml"
    path.write_text(REGISTRY.format(source=str(folder / "tiny.safetensors")))
    return path
