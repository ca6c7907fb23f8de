"""Take music apart into stems.

    stems = stemsplit.separate("song.mp3")             # {"vocals": (channels, samples), ...}
    model = stemsplit.load_model("spleeter-2stems")    # nn.Module: (B, C, T) -> (B, S, C, T)
    for event in stemsplit.Separator(model).stream("song.mp3"):
        ...                                            # blocks of stems, and progress

Everything here is imported when it is first used: `import stemsplit` itself loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemsplit.api import list_models, load_model, separate
    from stemsplit.separation.plan import Options
    from stemsplit.separation.separator import Separator

__version__ = "0.1.0"

__all__ = ["Options", "Separator", "__version__", "list_models", "load_model", "separate"]

_PLACES = {
    "Options": "stemsplit.separation.plan",
    "Separator": "stemsplit.separation.separator",
    "list_models": "stemsplit.api",
    "load_model": "stemsplit.api",
    "separate": "stemsplit.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'stemsplit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
