"""The sounds of a small data set, made of sines and noise: drums, bass, chords, a voice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]
Dice = np.random.Generator

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Centres of the first four formants in Hz, as phonetics textbooks give them for sung vowels.
VOWELS = (
    (800, 1150, 2900, 3900),
    (400, 1700, 2600, 3500),
    (300, 2200, 2950, 3700),
    (450, 800, 2830, 3500),
    (325, 700, 2700, 3500),
)


@dataclass(frozen=True)
class Song:
    """What a song's stems have in common.

    Attributes:
        rate: Hz.
        samples: Length.
        root: Of the scale, as a MIDI note between 40 and 51.
        mode: "major" or "minor".
        tempo: Beats per minute; four in a bar.
        chords: Steps of the scale, one a bar, repeated.
    """

    rate: int
    samples: int
    root: int
    mode: str
    tempo: int
    chords: tuple[int, ...]

    @property
    def step(self) -> int:
        """Samples of a sixteenth."""
        return round(self.rate * 15 / self.tempo)

    @property
    def steps(self) -> int:
        """Sixteenths that begin in it."""
        return -(-self.samples // self.step)

    def note(self, degree: int, octave: int = 0) -> float:
        """Return the frequency in Hz of a step of the scale, from 0 at the root."""
        scale = SCALES[self.mode]
        note = self.root + 12 * (octave + degree // 7) + scale[degree % 7]
        return 440.0 * 2.0 ** ((note - 69) / 12)

    def chord(self, step: int) -> int:
        """Return the step of the scale that the chord of a sixteenth stands on."""
        return self.chords[step // 16 % len(self.chords)]


def shape_noise(dice: Dice, count: int, rate: int, low_hz: float, high_hz: float) -> Signal:
    """Return noise of one band with soft edges, at a level of 1. Shape: (count,)."""
    spectrum = np.fft.rfft(dice.standard_normal(count))
    bins = np.fft.rfftfreq(count, 1 / rate)
    gain = 1 / (1 + (low_hz / np.maximum(bins, 1)) ** 4) / (1 + (bins / high_hz) ** 4)
    noise = np.fft.irfft(spectrum * gain, count)
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-9)


def decay(count: int, rate: int, time_s: float) -> Signal:
    """Return a fall by 60 dB in `time_s`. Shape: (count,)."""
    return 10.0 ** (-3 * np.arange(count) / (time_s * rate))


def swell(count: int, attack: int, release: int) -> Signal:
    """Return a rise, a level of 1 and a fall, straight. Shape: (count,)."""
    place = np.arange(count)
    return np.clip(np.minimum(place / max(attack, 1), (count - place) / max(release, 1)), 0, 1)


def add(track: Signal, start: int, sound: Signal) -> None:
    """Mix a sound into a track; what goes beyond its end is lost."""
    count = max(0, min(sound.shape[-1], track.shape[-1] - start))
    track[..., start : start + count] += sound[..., :count]


def place(sound: Signal, pan: float) -> Signal:
    """Return a sound at a place between left (-1) and right (1). Shape: (n,) -> (2, n)."""
    angle = (pan + 1) * np.pi / 4
    return np.stack([np.cos(angle) * sound, np.sin(angle) * sound])


def sum_harmonics(f0: Signal, rate: int, levels: Callable[[int], Signal], count: int) -> Signal:
    """Return sines at whole multiples of a moving pitch.

    Args:
        f0: Hz, for every sample. Shape: (n,).
        rate: Hz.
        levels: Gives the amplitude of harmonic k over time. Shape: (n,).
        count: Of harmonics; those beyond 0.45 of the rate are left out.
    """
    turn = np.exp(2j * np.pi * np.cumsum(f0) / rate)
    harmonic = np.ones_like(turn)
    total = np.zeros(len(f0))
    for k in range(1, count + 1):
        harmonic *= turn
        total += harmonic.imag * levels(k) * (k * f0 < 0.45 * rate)
    return total


def reverberate(sound: Signal, dice: Dice, rate: int, time_s: float, share: float) -> Signal:
    """Add a room: noise that fades, another one on each side. Shape: (2, n)."""
    count = round(time_s * rate)
    room = np.stack([shape_noise(dice, count, rate, 200, 6000) for _ in range(2)])
    room *= decay(count, rate, time_s)
    room /= np.sqrt(np.sum(room**2, axis=1, keepdims=True))
    size = 1 << (sound.shape[1] + count).bit_length()  # transforms of such a length are quick
    spectrum = np.fft.rfft(sound, size) * np.fft.rfft(room, size)
    return sound + share * np.fft.irfft(spectrum, size)[:, : sound.shape[1]]


def make_drums(song: Song, dice: Dice) -> Signal:
    """Return kick, snare, hats and a cymbal in a pattern of 16 steps. Shape: (2, samples)."""
    rate = song.rate
    track = np.zeros((2, song.samples))
    kick_at = {0} | {int(s) for s in np.flatnonzero(dice.random(16) < 0.12)}
    kick_at |= {8} if dice.random() < 0.6 else {6, 10}
    hat_every = int(dice.choice([1, 2, 2, 4]))
    low, high = dice.uniform(38, 60), dice.uniform(120, 260)
    kick_s, snare_s, hat_s = (
        dice.uniform(0.2, 0.5),
        dice.uniform(0.15, 0.4),
        dice.uniform(0.04, 0.1),
    )
    tone, colour, metal = dice.uniform(150, 260), dice.uniform(2000, 6000), dice.uniform(5000, 9000)
    hat_pan = dice.uniform(-0.5, 0.5)

    def kick() -> Signal:
        count = round(kick_s * rate)
        sweep = low + (high - low) * decay(count, rate, 0.08)
        click = shape_noise(dice, count, rate, 1000, 5000) * decay(count, rate, 0.01)
        body = np.sin(2 * np.pi * np.cumsum(sweep) / rate)
        return (body + 0.2 * click) * decay(count, rate, 2 * kick_s)

    def snare() -> Signal:
        count = round(snare_s * rate)
        noise = shape_noise(dice, count, rate, 900, colour) * decay(count, rate, snare_s)
        body = np.sin(2 * np.pi * tone * np.arange(count) / rate) * decay(count, rate, 0.12)
        return 0.35 * noise + 0.5 * body

    def hat(time_s: float) -> Signal:
        count = round(time_s * rate)
        return 0.2 * shape_noise(dice, count, rate, metal, 15000) * decay(count, rate, time_s)

    for step in range(song.steps):
        at, beat = step * song.step, step % 16
        is_fill = step // 16 % 4 == 3 and beat >= 12
        if beat in kick_at:
            add(track, at, place(kick() * dice.uniform(0.8, 1), 0))
        if beat in (4, 12) or (is_fill and dice.random() < 0.7):
            add(track, at, place(snare() * dice.uniform(0.6, 1), 0.1))
        if step % hat_every == 0 and dice.random() < 0.95:
            is_open = dice.random() < 0.08
            level = dice.uniform(0.5, 1) * (1 if beat % 4 else 1.2)
            add(track, at, place(hat(4 * hat_s if is_open else hat_s) * level, hat_pan))
        if step % 64 == 0:
            add(track, at, place(0.7 * hat(1.5), -hat_pan))
    return reverberate(track, dice, rate, dice.uniform(0.15, 0.4), dice.uniform(0.02, 0.15))


def make_bass(song: Song, dice: Dice) -> Signal:
    """Return a saw behind a low-pass that opens with every note. Shape: (2, samples)."""
    rate, length = song.rate, song.step * song.steps
    pattern = [(0, 0, None, 0), (0, None, 0, 4), (0, 7, 0, 7), (0, None, 0, None)]
    moves = pattern[dice.integers(len(pattern))]
    cutoff, opening = dice.uniform(150, 500), dice.uniform(1, 6)
    f0, level, bright = np.zeros(length), np.zeros(length), np.full(length, cutoff)
    count = 2 * song.step
    hold = round(count * dice.uniform(0.7, 0.98))
    pitch = song.note(song.chord(0), -1)
    for step in range(0, song.steps, 2):
        move = moves[step // 2 % 4]
        span = slice(step * song.step, (step + 2) * song.step)
        size = len(f0[span])
        if move is not None:
            pitch = song.note(song.chord(step) + move, -1)
            level[span] = np.pad(swell(hold, rate // 200, rate // 50), (0, count - hold))[:size]
            bright[span] = cutoff * (1 + opening * decay(count, rate, 0.3)[:size])
        f0[span] = pitch
    is_hollow = dice.random() < 0.3

    def levels(k: int) -> Signal:
        own = 0.0 if is_hollow and k % 2 == 0 else 1 / k
        return own * level / np.sqrt(1 + (k * f0 / bright) ** 4)

    sound = sum_harmonics(f0, rate, levels, 24)[: song.samples]
    return place(np.tanh(dice.uniform(0.8, 2) * sound), dice.uniform(-0.1, 0.1))


def make_chords(song: Song, dice: Dice) -> Signal:
    """Return held chords of detuned voices and a broken chord above. Shape: (2, samples)."""
    rate = song.rate
    track = np.zeros((2, song.samples))
    tilt, detune = dice.uniform(1.0, 2.2), dice.uniform(0.001, 0.006)
    attack = round(rate * dice.uniform(0.005, 0.25))
    k = np.arange(1, 17)
    weights = k**-tilt * np.where((k % 2 == 0) & (dice.random() < 0.4), 0.1, 1)
    wave = np.sin(2 * np.pi * np.outer(k, np.arange(2048) / 2048)).T @ weights
    count = 16 * song.step
    for start in range(0, song.steps, 16):
        chord = np.zeros((2, count))
        for degree in (0, 2, 4, 7):
            pitch = song.note(song.chord(start) + degree, 0 if degree else 1)
            for side in (0, 1):
                off = 1 + detune * dice.uniform(-1, 1)
                turns = (dice.random() + pitch * off * np.arange(count) / rate) % 1
                chord[side] += wave[(2048 * turns).astype(int)]
        add(track, start * song.step, 0.12 * chord * swell(count, attack, rate // 8))
    order, every = dice.permutation([0, 2, 4, 7, 9]), int(dice.choice([1, 2, 2, 3, 4]))
    ring_s, strength = dice.uniform(0.2, 0.9), dice.uniform(0.1, 0.5)
    size = round(ring_s * rate)
    for index, step in enumerate(range(0, song.steps, every)):
        if dice.random() < 0.2:
            continue
        f0 = np.full(size, song.note(song.chord(step) + int(order[index % 5]), 1))
        fall = decay(size, rate, ring_s)
        pluck = sum_harmonics(f0, rate, lambda k, fall=fall: fall**k**0.7 / k, 8)  # type: ignore[misc]
        pluck *= swell(size, rate // 500, rate // 100)
        add(track, step * song.step, strength * place(pluck, dice.uniform(-0.8, 0.8)))
    return reverberate(track, dice, rate, dice.uniform(0.5, 1.5), dice.uniform(0.1, 0.4))


@dataclass(frozen=True)
class Voice:
    """What a singer does, for every sample.

    Attributes:
        f0: Hz. Shape: (n,).
        level: Of what is voiced. Shape: (n,).
        formants: Their centres in Hz. Shape: (4, n).
        noise: Consonants. Shape: (n,).
    """

    f0: Signal
    level: Signal
    formants: Signal
    noise: Signal


def sing(song: Song, dice: Dice) -> Voice:
    """Draw a melody in phrases: notes of two to six sixteenths, each with two vowels, and rests."""
    length, rate = song.step * song.steps, song.rate
    voice = Voice(np.zeros(length), np.zeros(length), np.zeros((4, length)), np.zeros(length))
    octave, size = int(dice.choice([0, 1, 1, 2])), dice.uniform(0.88, 1.15)
    pitch, degree = 0.0, int(dice.integers(0, 5))
    rest_until = step = int(dice.choice([0, 4, 8]))
    while step < song.steps:
        if step % 16 == 0 and step > rest_until and dice.random() < 0.5:
            step += int(dice.choice([4, 8]))
            rest_until = step + 16
            continue
        beats = min(int(dice.choice([2, 2, 3, 4, 4, 6])), song.steps - step)
        span, count = slice(step * song.step, (step + beats) * song.step), beats * song.step
        degree = int(np.clip(degree + dice.choice([-2, -1, -1, 0, 1, 1, 2]), -2, 9))
        if step % 8 == 0:
            degree = song.chord(step) % 7 + int(dice.choice([0, 2, 4]))
        before, pitch = pitch or song.note(degree, octave), song.note(degree, octave)
        time = np.arange(count) / rate
        wobble = dice.uniform(0.004, 0.012) * np.clip(time / 0.4, 0, 1)
        wobble *= np.sin(2 * np.pi * dice.uniform(4.8, 6.2) * time + dice.uniform(0, 6))
        voice.f0[span] = (pitch + (before - pitch) * np.exp(-time / 0.03)) * (1 + wobble)
        hiss = round(rate * dice.uniform(0.04, 0.11)) if dice.random() < 0.6 else 0
        hiss = min(hiss, count // 3)
        if hiss:
            low = float(dice.choice([1500, 3000, 5500]))
            burst = shape_noise(dice, hiss, rate, low, 2.2 * low) * swell(
                hiss, hiss // 3, hiss // 4
            )
            add(voice.noise, span.start, dice.uniform(0.05, 0.15) * burst)
        level = dice.uniform(0.7, 1.0) * swell(count - hiss, rate // 40, rate // 25)
        voice.level[span] = np.concatenate([np.zeros(hiss), level])
        first, last = (np.array(VOWELS[dice.integers(len(VOWELS))]) * size for _ in range(2))
        glide = np.clip(time / (0.6 * time[-1] + 1e-9), 0, 1)
        voice.formants[:, span] = first[:, None] + (last - first)[:, None] * glide
        step += beats
    return voice


def make_vocals(song: Song, dice: Dice) -> Signal:
    """Return a buzz through formants that move, consonants, breath. Shape: (2, samples)."""
    rate, voice = song.rate, sing(song, dice)
    length = len(voice.f0)
    widths = np.array([90, 110, 170, 250])[:, None]
    heights = np.array([1.0, 0.6, 0.3, 0.2])[:, None]
    tilt, every = dice.uniform(0.6, 1.1), 64
    coarse_f0, coarse_formants = voice.f0[::every], voice.formants[:, ::every]
    grid, places = np.arange(0, length, every), np.arange(length)

    def levels(k: int) -> Signal:
        gap = (k * coarse_f0 - coarse_formants) / widths
        gain = np.sum(heights / (1 + gap**2), axis=0) * k**-tilt
        return np.interp(places, grid, gain) * voice.level

    breath = 0.008 * shape_noise(dice, length, rate, 1500, 6000) * voice.level
    sound = sum_harmonics(voice.f0, rate, levels, 40) + voice.noise + breath
    dry = place(sound[: song.samples], dice.uniform(-0.15, 0.15))
    return reverberate(dry, dice, rate, dice.uniform(0.4, 1.2), dice.uniform(0.02, 0.2))


MAKERS: dict[str, Callable[[Song, Dice], Signal]] = {
    "drums": make_drums,
    "bass": make_bass,
    "other": make_chords,
    "vocals": make_vocals,
}
"""How each stem is made; all give arrays of two channels, at levels of their own."""
