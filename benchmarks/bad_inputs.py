"""Feed the command more than 500 inputs that are broken, odd or hostile, and check what it leaves.

    python benchmarks/bad_inputs.py [--seed 0] [--keep FOLDER]

For every input: no traceback, no half-written output, stems as long as their manifest says, and an
exit code that says what happened. The inputs are made here from noise; the network is Spleeter's
smallest configuration with random weights: the time goes to the inputs and not to the network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import save_file

from stemsplit.audio import decode_blocks, find_ffmpeg

REGISTRY = """
default = "tiny"
[models.tiny]
description = "random weights, for tests"
architecture = "spleeter"
stems = ["vocals", "accompaniment"]
config = {{ widths = [2, 3, 4, 5, 6, 7], segment_frames = 64 }}
[[models.tiny.files]]
source = {source!r}
format = "safetensors"
"""
ENCODINGS = {
    "wav": ["-c:a", "pcm_s16le"],
    "flac": ["-c:a", "flac"],
    "mp3": ["-c:a", "libmp3lame"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus", "-ar", "48000"],
    "m4a": ["-c:a", "aac"],
    "aiff": ["-c:a", "pcm_s16be"],
    "mkv": ["-c:a", "aac"],
}
NAMES = [
    "émoji 🎤🎶.wav",
    "日本語の歌.wav",
    "new\nline.wav",
    "tab\there.wav",
    "-leading-dash.wav",
    "--help.wav",
    "quote'\"s.wav",
    "colon: a? <b> |c*.wav",
    "trailing dot..wav",
    " spaces .wav",
    "a%03d.wav",
    "{track}.wav",
    "$(touch x).wav",
    "CON.wav",
    "http:song.wav",
    "concat:a|b.wav",
    "x" * 251 + ".wav",
    "\u00e9" * 125 + ".wav",
    "no_suffix",
    ".hidden.wav",
    "UPPER.WAV",
    "two.dots.tar.wav",
    "\u202eright-to-left.wav",
    "e\u0301.wav",
]


def make_model(folder: Path) -> Path:
    """Write a tiny model and return its registry file."""
    import torch

    from stemsplit.models.spleeter import Spleeter, SpleeterConfig

    torch.manual_seed(0)
    model = Spleeter(SpleeterConfig.tiny(("vocals", "accompaniment")))
    arrays = {k: v.numpy() for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(arrays, folder / "tiny.safetensors")
    registry = folder / "tiny.toml"
    registry.write_text(REGISTRY.format(source=str(folder / "tiny.safetensors")))
    return registry


def make_seeds(folder: Path, rng: np.random.Generator) -> dict[str, bytes]:
    """Return one good song in every encoding."""
    noise = 0.2 * rng.standard_normal((66_150, 2))
    source = folder / "seed-source.wav"
    soundfile.write(source, noise, 44100)
    seeds = {}
    for suffix, codec in ENCODINGS.items():
        path = folder / f"seed.{suffix}"
        command = [str(find_ffmpeg()), "-v", "error", "-y", "-i", str(source), *codec, str(path)]
        subprocess.run(command, check=True)
        seeds[suffix] = path.read_bytes()
    return seeds


def damage(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Return a file's bytes with one kind of damage."""
    raw = bytearray(data)
    where = int(rng.integers(0, len(raw)))
    if kind == "truncated":
        return bytes(raw[:where])
    if kind == "flipped":
        for position in rng.integers(0, len(raw), 20):
            raw[position] ^= 1 << int(rng.integers(0, 8))
    if kind == "header flipped":
        for position in rng.integers(0, min(64, len(raw)), 4):
            raw[position] = int(rng.integers(0, 256))
    if kind == "hole":
        raw[where : where + 4000] = bytes(len(raw[where : where + 4000]))
    if kind == "noise inside":
        length = len(raw[where : where + 4000])
        raw[where : where + length] = rng.bytes(length)
    if kind == "noise behind":
        raw += rng.bytes(5000)
    if kind == "cut out":
        del raw[where : where + 3000]
    return bytes(raw)


def write_inputs(folder: Path, seeds: dict[str, bytes], rng: np.random.Generator) -> Iterator[str]:
    """Write all inputs into a folder and yield the kind of each."""
    kinds = (
        "truncated",
        "flipped",
        "header flipped",
        "hole",
        "noise inside",
        "noise behind",
        "cut out",
    )
    for kind in kinds:
        for suffix, data in seeds.items():
            for turn in range(8):
                name = f"{kind.replace(' ', '-')}-{turn}.{suffix}"
                (folder / name).write_bytes(damage(data, kind, rng))
                yield kind
    for suffix in seeds:
        for other, data in seeds.items():
            if other != suffix:
                (folder / f"really-{other}.{suffix}").write_bytes(data)
                yield "wrong suffix"
        (folder / f"empty.{suffix}").write_bytes(b"")
        (folder / f"text.{suffix}").write_text("not a song\n" * 50)
        (folder / f"bytes.{suffix}").write_bytes(rng.bytes(20_000))
        yield from ("empty", "text", "random bytes")
    for samples in (0, 1, 2, 100, 1023):
        for rate in (8000, 44100, 192_000):
            soundfile.write(folder / f"{samples}-samples-{rate}.wav", np.zeros((samples, 2)), rate)
            yield "very short"
    for channels in (1, 3, 4, 5, 6, 7, 8, 9, 16, 32):
        noise = 0.1 * rng.standard_normal((5000, channels))
        soundfile.write(folder / f"{channels}-channels.wav", noise, 44100, subtype="FLOAT")
        yield "channels"
    odd = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "tiny": 1e-40, "loud": 1e3, "clipping": 4.0}
    for name, value in odd.items():
        for everywhere in (False, True):
            noise = 0.1 * rng.standard_normal((5000, 2))
            noise[:: 1 if everywhere else 1000] = value
            path = folder / f"{name}-{'all' if everywhere else 'some'}.wav"
            soundfile.write(path, noise, 44100, subtype="FLOAT")
            yield "odd values"
    for name in NAMES:
        (folder / name).write_bytes(seeds["wav"])
        yield "names"


def separate(folder: Path, registry: Path, out: Path) -> tuple[int, list[dict[str, object]], str]:
    """Run the command over a folder and return its exit code, its events and what it said."""
    paths = sorted(str(path) for path in folder.iterdir())
    command = [sys.executable, "-m", "stemsplit", "separate", "--registry", str(registry), "--json"]
    # The network is tiny: a second thread would only wait for the first.
    done = subprocess.run(
        [*command, "-o", str(out), "--", *paths],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, events, done.stderr


def check_outputs(out: Path) -> list[str]:
    """Return what is wrong with the files that were written."""
    problems = []
    for path in out.rglob("*"):
        if path.name.endswith(".part") or path.name.startswith("."):
            problems.append(f"left behind: {path.name!r}")
    for manifest in out.rglob("stemsplit.json"):
        said = json.loads(manifest.read_text())
        for path in manifest.parent.glob("*.wav"):
            with decode_blocks(path) as blocks:
                samples = sum(block.shape[1] for block in blocks)
            if samples != said["samples"]:
                problems.append(f"{path}: {samples} samples, the manifest says {said['samples']}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        work = options.keep or Path(name)
        inputs, out = work / "inputs", work / "out"
        inputs.mkdir(parents=True)
        registry = make_model(work)
        kinds = Counter(write_inputs(inputs, make_seeds(work, rng), rng))
        status, events, said = separate(inputs, registry, out)
        outcomes = Counter(str(event["event"]) for event in events)
        problems = check_outputs(out)
        told = [said, *(json.dumps(event) for event in events)]
        problems += ["a traceback was shown" for text in told if "Traceback" in text]
        problems += [text for text in told if "something unexpected" in text]
        finished = sum(outcomes[kind] for kind in ("file_done", "file_failed", "file_skipped"))
        if finished != kinds.total():
            problems.append(f"{kinds.total()} inputs, {finished} outcomes")
        if status != (1 if outcomes["file_failed"] else 0):
            problems.append(f"exit code {status}")
    for kind, count in kinds.items():
        print(f"{count:5} {kind}")
    done, refused = outcomes["file_done"], outcomes["file_failed"]
    print(f"{kinds.total():5} inputs: {done} separated, {refused} refused")
    print(f"exit code {status}; problems: {len(problems)}")
    for problem in problems:
        print(" ", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
