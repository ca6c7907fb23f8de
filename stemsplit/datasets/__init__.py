"""Songs with their true stems: MUSDB18 in its forms, and folders of one's own.

dataset = open_dataset(Path("musdb18-wav"))          # tracks, in three splits
index = open_index(dataset)                          # lengths, peaks, where stems sound
require(dataset, "train", "valid")                   # an error where one of them is empty
read_excerpt(track.stems["vocals"], start, count)    # float32 (channels, count)
"""
