"""What a resumed run takes from its checkpoint, where the recipe has been changed meanwhile.

The recipe always counts: the state gives only what has been learned and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.plugins.precision import Precision

from stemsplit.errors import UsageError
from stemsplit.training.recipe import RecipeConfig, to_table


def check_changes(recipe: RecipeConfig, begun: RecipeConfig) -> None:
    """Refuse changes that the state does not fit any more.

    Args:
        recipe: How the run is to go on.
        begun: How it was begun.

    Raises:
        UsageError: The network is another one, or the kind of optimiser.
    """
    now, then = (
        {**_flatten("model", to_table(one.model)), "optimiser.name": one.optimiser.name}
        for one in (recipe, begun)
    )
    for key in (*now, *then):
        if now.get(key) != then.get(key):
            raise UsageError(
                f"{key} is {_tell(then, key)} in this run, and cannot become {_tell(now, key)}",
                help="resume without that change, or begin another run, with --from where the "
                "network stays.",
            )


def _flatten(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping)
        flat |= _flatten(f"{where}.{key}", value) if inside else {f"{where}.{key}": value}
    return flat


def _tell(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"


def restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimiser the moments of another; decays and the like stay its own.

    The rate is that of the latest step: the schedule sets it before the next one.
    """
    pairs = zip(optimiser.state_dict()["param_groups"], state["param_groups"], strict=True)
    groups = [{**own, "lr": old["lr"]} for own, old in pairs]
    optimiser.load_state_dict({"state": state["state"], "param_groups": groups})


def restore_scaler(plugin: Precision, state: Mapping[str, Any]) -> None:
    """Give 16-bit precision the scale that the run had, where it had one."""
    if plugin.state_dict().keys() == state.keys():
        plugin.load_state_dict(dict(state))
