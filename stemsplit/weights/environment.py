"""What the environment says of the cache and of downloads."""

from __future__ import annotations

import os
from pathlib import Path

from stemsplit.weights.disk import expand_home


def find_cache() -> Path:
    """Return the folder that weights are kept in where no other is named."""
    named = os.environ.get("STEMSPLIT_CACHE", "").strip()
    if named:
        return expand_home(named).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("stemsplit"))


def is_offline() -> bool:
    """Whether $STEMSPLIT_OFFLINE switches downloads off."""
    return os.environ.get("STEMSPLIT_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")
