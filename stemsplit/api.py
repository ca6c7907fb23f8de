"""The public functions: one line from a song to its stems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from stemsplit.models.base import Model
    from stemsplit.separation.events import Event
    from stemsplit.separation.plan import Options
    from stemsplit.weights.registry import ModelEntry


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    registries: tuple[Path, ...] = (),
    offline: bool | None = None,
) -> Model:
    """Load a model with its weights, downloading and converting them the first time.

    Args:
        name: A registry name, or the path of a model of one's own; the registry's default if None.
        device: "auto", "cpu", "cuda", "cuda:n" or "mps".
        registries: Registry files that add to or override the shipped one.
        offline: Never download; None follows $STEMSPLIT_OFFLINE.

    Returns:
        A network in evaluation mode. Shape: (B, C, T) -> (B, S, C, T).

    Raises:
        UnknownNameError: No model is called that.
        WeightsError: The weights cannot be fetched, are not the published ones, or do not fit.
        DeviceError: This machine lacks the device.
    """
    from stemsplit.backends.torch_core import find_device
    from stemsplit.weights import load
    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

    target = find_device(device)
    model = load.load_model(name, registry=Registry.load(registries), store=Store(offline=offline))
    return model.to(target)


def list_models(registries: tuple[Path, ...] = ()) -> list[ModelEntry]:
    """Return every model of the registry, by name; nothing is loaded or downloaded.

    Args:
        registries: Registry files that add to or override the shipped one.

    Raises:
        RegistryError: A registry file that is not one.
    """
    from stemsplit.weights.registry import Registry

    registry = Registry.load(registries)
    return [registry.get(name) for name in registry.names()]


def separate(
    source: str | os.PathLike[str] | Tensor,
    model: str | Model | None = None,
    options: Options | None = None,
    *,
    on_event: Callable[[Event], None] | None = None,
    progress: bool = False,
    **overrides: Any,
) -> dict[str, Tensor]:
    """Separate a song and hold its stems in memory.

    For songs that do not fit there, use `Separator.stream` or the command line.

    Args:
        source: A path, or samples at the model's rate of shape (C, T) with one or two channels.
        model: A registry name, a path, or a model from `load_model`; the default model if None.
        options: See `Options`.
        on_event: Called with every event as it happens, on this thread.
        progress: Draw a bar on standard error.
        **overrides: Fields of `Options`: `separate("song.mp3", stems=("vocals",))`.

    Returns:
        Float32 stems on the CPU by name. Shape (C, T), as long as the source, at its sample rate.

    Raises:
        StemsplitError: See `stemsplit.errors`; the message says what to do.
    """
    from tqdm.auto import tqdm

    from stemsplit.models.base import Model
    from stemsplit.separation.events import Progress
    from stemsplit.separation.separator import Separator

    loaded = model if isinstance(model, Model) else load_model(model)
    separator = Separator(loaded, options, **overrides)
    if not progress:
        return separator.separate(source, on_event=on_event)
    with tqdm(unit="s", unit_scale=True, desc=loaded.name or None) as bar:

        def draw(event: Event) -> None:
            if isinstance(event, Progress):
                total = event.total_samples
                bar.total = None if total is None else total / event.sample_rate
                bar.update(event.done_samples / event.sample_rate - bar.n)
            if on_event is not None:
                on_event(event)

        return separator.separate(source, on_event=draw)
