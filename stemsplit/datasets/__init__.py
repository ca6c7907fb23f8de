"""Songs with their true stems: MUSDB18 in its forms, and folders of one's own.

dataset = open_dataset(Path("musdb18-wav"))          # tracks, in three splits
require(dataset, "train", "valid")                   # an error where one of them is empty
index = open_index(dataset)                          # lengths, peaks, where stems sound
read_excerpt(track.stems["vocals"], start, count)    # float32 (channels, count)
"""

from __future__ import annotations

from stemsplit.datasets.excerpts import read_excerpt
from stemsplit.datasets.index import Index, Statistics, TrackIndex, open_index
from stemsplit.datasets.layouts import open_dataset
from stemsplit.datasets.sample import fetch_sample
from stemsplit.datasets.splits import Validation, keep_roles, parse_validation, require
from stemsplit.datasets.track import AudioFile, Dataset, Split, Track

__all__ = [
    "AudioFile",
    "Dataset",
    "Index",
    "Split",
    "Statistics",
    "Track",
    "TrackIndex",
    "Validation",
    "fetch_sample",
    "keep_roles",
    "open_dataset",
    "open_index",
    "parse_validation",
    "read_excerpt",
    "require",
]
