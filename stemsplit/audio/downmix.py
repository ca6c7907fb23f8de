"""From any loudspeaker layout to two channels, with the centre in.

The gains are those of ITU-R BS.775 and of ffmpeg for floating-point output: the front pair keeps
its level, everything else joins it at -3 dB (a centre speaker in both channels), and the LFE is
left out. Nothing is scaled down to make room: samples are floats, so none clips here, and a 5.1
song is as loud as a player makes it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

Gains = np.ndarray[Any, np.dtype[np.float32]]

_HALF: Final = math.sqrt(0.5)  # -3 dB

# Gain into (left, right) by bit of the channel mask.
_GAINS: Final = (
    (1.0, 0.0),  # front left
    (0.0, 1.0),  # front right
    (_HALF, _HALF),  # front centre
    (0.0, 0.0),  # LFE
    (_HALF, 0.0),  # back left
    (0.0, _HALF),  # back right
    (1.0, 0.0),  # front left of centre
    (0.0, 1.0),  # front right of centre
    (0.5, 0.5),  # back centre
    (_HALF, 0.0),  # side left
    (0.0, _HALF),  # side right
    (0.5, 0.5),  # top centre
    (_HALF, 0.0),  # top front left
    (0.5, 0.5),  # top front centre
    (0.0, _HALF),  # top front right
    (_HALF, 0.0),  # top back left
    (0.5, 0.5),  # top back centre
    (0.0, _HALF),  # top back right
)


def build_downmix(source_channels: int, channel_mask: int, channels: int) -> Gains | None:
    """Return the matrix that makes `channels` rows of `source_channels`.

    One and two channels pass as they are, whatever they are called. One becomes two equal ones, two
    become one by their mean. More than two are mixed by the gains above; where the layout is
    unknown (nine channels, a multitrack recording) every channel goes to both sides at equal
    strength, as their mean: nothing is lost and nothing can clip.

    Args:
        source_channels: Rows of the source.
        channel_mask: Loudspeakers by bit, lowest first; 0 where unknown.
        channels: 1 or 2.

    Returns:
        Shape (channels, source_channels); None where the source passes unchanged.
    """
    if source_channels == channels:
        return None
    if source_channels == 1:
        return np.ones((2, 1), np.float32)
    stereo = _build_stereo(source_channels, channel_mask)
    return stereo if channels == 2 else stereo.mean(axis=0, keepdims=True)


def _build_stereo(source_channels: int, channel_mask: int) -> Gains:
    if source_channels == 2:
        return np.eye(2, dtype=np.float32)
    places = [place for place in range(32) if channel_mask >> place & 1]
    if len(places) != source_channels or places[-1] >= len(_GAINS):
        return np.full((2, source_channels), 1.0 / source_channels, np.float32)
    gains = np.array([_GAINS[place] for place in places], np.float32)
    return np.ascontiguousarray(gains.T)
