"""X-UMX's published names: Open-Unmix's in NNabla, with the stem behind the first part of each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stemsplit.weights.keymaps.keymap import Keymap
from stemsplit.weights.keymaps.open_unmix import map_nnabla_net


def build_keymap(stems: Sequence[str]) -> Keymap:
    """Return the table for `x-umx.h5`: all stems in one file, "fc1_bass/affine/W".

    Args:
        stems: The model's, in any order.
    """
    rows = (row for stem in stems for row in map_nnabla_net(stem, re.escape(f"_{stem}")))
    return Keymap(tuple(rows))
