"""From an entry of the registry to its network, still without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from stemsplit.errors import RegistryError
from stemsplit.models.base import StemModel, build_config
from stemsplit.models.catalogue import find_architecture
from stemsplit.weights.entry import ModelEntry


def build_model(entry: ModelEntry) -> StemModel:
    """Build an entry's network without memory for its weights: they come from a file.

    Raises:
        RegistryError: The entry's configuration is not one of its architecture.
    """
    assert entry.architecture is not None
    kind = find_architecture(entry.architecture)
    values = {
        **entry.config,
        "stems": entry.stems,
        "channels": entry.channels,
        "sample_rate": entry.sample_rate,
    }
    try:
        config = build_config(kind.Config, values)
        with torch.device("meta"), _NoInitialValues():
            return kind(config)
    except (TypeError, ValueError) as error:
        raise RegistryError(
            f"the configuration of model {entry.name!r} does not build: {error}",
            help="compare its table with the architecture's configuration: docs/models.md.",
        ) from error


class _NoInitialValues(TorchFunctionMode):
    """Draw none: tensors without memory take torch a tenth of a second to pretend it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def list_shapes(model: StemModel) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that a network has to be given."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
