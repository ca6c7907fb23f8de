"""What cutting a song into chunks does: stemsplit's own framing beside the original authors'.

    python benchmarks/seams.py [MODEL ...] [--arch NAME ...] [--memory 1] [--segment SECONDS]
        [--shifts N]

The song is stempeg's excerpt again and again, with its true stems. "SNR": the chunked stems beside
those of the whole song in the authors' framing. "SDR": each beside the true stems. "wobble": how
far the level of a steady sound of twelve harmonics strays in the first stem from its median, in dB.
A network hears the same wherever it is in that sound: what wobbles is the framing.

Of an architecture with random weights there is the SNR alone: what cutting up costs a network that
remembers, since such weights give no stems. `--memory` multiplies its recurrent weights: the larger
they are, the longer it remembers.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from songs import find_excerpt
from torch import Tensor

import stemsplit
from stemsplit.audio import decode_blocks
from stemsplit.models.catalogue import find_architecture

STEMS = ("mixture", "drums", "bass", "other", "vocals")
TONE_HZ = 220.0
HARMONICS = 12
WINDOW = 2048


def read_song(seconds: float) -> dict[str, Tensor]:
    """Return the mixture and its true stems, all as long as is wanted. Shape of each: (2, T)."""
    song = {}
    for stream, stem in enumerate(STEMS):
        with decode_blocks(find_excerpt(), stream=stream) as blocks:
            excerpt = torch.from_numpy(np.concatenate(list(blocks), axis=1))
            samples = round(seconds * blocks.sample_rate)
        song[stem] = excerpt.repeat(1, math.ceil(samples / excerpt.shape[1]))[:, :samples]
    song["accompaniment"] = song["drums"] + song["bass"] + song["other"]
    return song


def ratio_db(signal: Tensor, error: Tensor) -> float:
    """Return 10 log10 of the ratio of two energies."""
    energies = [float(one.double().square().sum()) for one in (signal, error)]
    return math.inf if energies[1] == 0 else 10 * math.log10(energies[0] / energies[1])


def make_tone(samples: int, sample_rate: int) -> Tensor:
    """Return a steady sound whose harmonics fall with their number. Shape: (2, samples)."""
    clock = torch.arange(samples, dtype=torch.float64) / sample_rate
    tone = torch.zeros(samples, dtype=torch.float64)
    for number in range(1, HARMONICS + 1):
        tone += 0.2 / number * torch.sin(2 * math.pi * TONE_HZ * number * clock + number**2)
    return tone.float().expand(2, -1)


def measure_wobble(stem: Tensor, sample_rate: int) -> float:
    """Return by how many dB a stem's level strays, its first and last two seconds aside."""
    inner = stem[:, 2 * sample_rate : -2 * sample_rate]
    power = inner.unfold(1, WINDOW, WINDOW // 2).square().mean(dim=(0, 2)).clamp_min(1e-12)
    level_db = 10 * power.log10()
    return float((level_db - level_db.median()).abs().max())


@torch.no_grad()
def measure_random(name: str, mixture: Tensor, memory: float, segment_s: float | None) -> float:
    """Return an architecture's SNR, as many stems as it needs, random weights."""
    kind = find_architecture(name)
    torch.manual_seed(0)
    model = kind(kind.Config(("vocals", "drums"))).eval()
    for layer in model.core.modules():
        if isinstance(layer, torch.nn.RNNBase):
            for parameter in layer.parameters():
                parameter *= memory if parameter.dim() > 1 else 1
    (chunked, whole) = (
        torch.stack(list(stemsplit.Separator(model, **framing).separate(mixture).values()))
        for framing in ({"segment_s": segment_s}, {"framing": "original"})
    )
    return ratio_db(whole, chunked - whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--arch", nargs="*", default=[])
    parser.add_argument("--memory", type=float, default=1)
    parser.add_argument("--segment", type=float)
    parser.add_argument("--shifts", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    song = read_song(options.seconds)
    for name in options.arch:
        found = measure_random(name, song["mixture"], options.memory, options.segment)
        print(f"{name}, random weights, memory x{options.memory}: SNR {found:.1f} dB", flush=True)
    if options.arch and not options.models:
        return
    options.models = options.models or ["spleeter-2stems"]
    header = ("model", "stem", "SNR dB", "SDR dB", "SDR original", "wobble dB", "wobble original")
    print(" ".join(f"{name:>16}" for name in header))
    for name in options.models:
        model = stemsplit.load_model(name)
        tone = make_tone(song["mixture"].shape[1], model.sample_rate)
        ours = stemsplit.Separator(model, shifts=options.shifts)
        whole = stemsplit.Separator(model, framing="original")
        chunked, framed = (one.separate(song["mixture"]) for one in (ours, whole))
        wobbles = [
            measure_wobble(one.separate(tone)[model.stems[0]], model.sample_rate)
            for one in (ours, whole)
        ]
        for stem, heard in chunked.items():
            true = song[stem]
            figures = (
                ratio_db(framed[stem], heard - framed[stem]),
                ratio_db(true, heard - true),
                ratio_db(true, framed[stem] - true),
                *wobbles,
            )
            print(f"{name:>16} {stem:>16} " + " ".join(f"{one:16.3f}" for one in figures))


if __name__ == "__main__":
    main()
