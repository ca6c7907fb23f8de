"""What was learned as a model that opens like a published one: weights and a registry file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stemsplit.models.base import StemModel
from stemsplit.training.checkpoints import remove_file
from stemsplit.training.recipe import to_table
from stemsplit.training.recipe_files import write_table
from stemsplit.weights.convert import write_safetensors
from stemsplit.weights.disk import make_folder, write_text
from stemsplit.weights.own_models import MANIFEST

ABOVE_CONFIG = ("stems", "channels", "sample_rate")
"""Fields of a configuration that a registry file keeps beside it."""


def name_model(path: Path) -> str:
    """Return a run folder's name as a model may be called."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.name.casefold()).strip("._-")
    return name or "own"


def export_model(
    model: StemModel,
    folder: Path,
    *,
    name: str,
    architecture: str,
    description: str,
    epoch: int,
    scores: Mapping[str, float] | None = None,
) -> None:
    """Write a model such that `-m folder` opens it.

    The weights get a name of their own and the registry file is replaced when they are there:
    whoever opens the folder meanwhile finds the old model or the new one.

    Args:
        model: In evaluation mode; of its configuration's stems.
        folder: Where to; it is made where it is missing.
        name: Of the model.
        architecture: A key of the catalogue.
        description: One line.
        epoch: Which one, for the weights' name.
        scores: uSDR per stem on the validation tracks, where they were separated.

    Raises:
        OutputError: The place cannot be written to.
    """
    make_folder(folder)
    weights = folder / f"weights-{epoch:04d}.safetensors"
    arrays = {
        key: tensor.detach().float().cpu().numpy()
        for key, tensor in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    write_safetensors(arrays, weights)
    config = to_table(model.config)
    entry: dict[str, Any] = {
        "description": description,
        "architecture": architecture,
        "stems": config["stems"],
        "channels": config["channels"],
        "sample_rate": config["sample_rate"],
        "licence": "not stated",
        "files": [{"source": f"./{weights.name}", "format": "safetensors"}],
        "config": {key: value for key, value in config.items() if key not in ABOVE_CONFIG},
    }
    if scores:
        entry["scores"] = [
            {
                "dataset": "its own validation tracks",
                "metric": "uSDR",
                "values": dict(scores),
                "source": f"epoch {epoch} of this training",
            }
        ]
    lines = write_table("", {"default": name, "models": {name: entry}})
    write_text(folder / MANIFEST, "\n".join(lines) + "\n")
    for other in folder.glob("weights-*.safetensors"):
        if other != weights:
            remove_file(other)


def has_model(folder: Path) -> bool:
    """Return whether a model has been exported there."""
    return os.path.isfile(folder / MANIFEST)
