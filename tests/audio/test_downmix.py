from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sounds import decode, encode

from stemsplit.audio import decode_blocks
from stemsplit.audio.downmix import build_downmix

HALF = math.sqrt(0.5)
MASK_5_1 = 0x3F
MASK_5_1_SIDE = 0x60F


@pytest.mark.parametrize("mask", [MASK_5_1, MASK_5_1_SIDE])
def test_5_1_keeps_the_front_adds_the_centre_and_leaves_the_lfe_out(mask: int) -> None:
    gains = build_downmix(6, mask, 2)
    assert gains is not None
    np.testing.assert_allclose(
        gains, [[1, 0, HALF, 0, HALF, 0], [0, 1, HALF, 0, 0, HALF]], rtol=1e-6
    )


def test_one_and_two_channels_pass_unchanged() -> None:
    assert build_downmix(1, 4, 1) is None
    assert build_downmix(2, 3, 2) is None
    assert build_downmix(2, 0, 2) is None


def test_mono_becomes_two_equal_channels_at_its_own_level() -> None:
    np.testing.assert_array_equal(build_downmix(1, 4, 2), [[1], [1]])


def test_stereo_becomes_mono_by_its_mean() -> None:
    np.testing.assert_array_equal(build_downmix(2, 3, 1), [[0.5, 0.5]])


def test_surround_becomes_mono_by_the_mean_of_its_stereo() -> None:
    stereo, mono = build_downmix(6, MASK_5_1, 2), build_downmix(6, MASK_5_1, 1)
    assert stereo is not None
    assert mono is not None
    np.testing.assert_allclose(mono, stereo.mean(axis=0, keepdims=True))


@pytest.mark.parametrize(
    ("channels", "mask"),
    [(9, 0), (3, MASK_5_1), (6, 0), (3, 0x3 | 1 << 20), (40, 0)],
    ids=["nine", "mask too large", "none", "place without a gain", "forty"],
)
def test_an_unknown_layout_goes_to_both_sides_by_its_mean(channels: int, mask: int) -> None:
    gains = build_downmix(channels, mask, 2)
    np.testing.assert_allclose(gains, np.full((2, channels), 1 / channels), rtol=1e-6)


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        (0x7, [1, 0, HALF]),  # 3.0
        (0x107, [1, 0, HALF, 0.5]),  # 4.0
        (0x33, [1, 0, HALF, 0]),  # quad
        (0x63F, [1, 0, HALF, 0, HALF, 0, HALF, 0]),  # 7.1
        (0xFF, [1, 0, HALF, 0, HALF, 0, 1, 0]),  # 7.1(wide)
        (0x2D63F, [1, 0, HALF, 0, HALF, 0, HALF, 0, HALF, 0, HALF, 0]),  # 7.1.4
    ],
)
def test_other_layouts(mask: int, left: list[float]) -> None:
    gains = build_downmix(len(left), mask, 2)
    assert gains is not None
    np.testing.assert_allclose(gains[0], left, rtol=1e-6)
    assert gains[0].sum() == pytest.approx(gains[1].sum())


@pytest.mark.parametrize(
    ("layout", "suffix"), [("5.1", "flac"), ("5.1(side)", "mkv"), ("7.1", "wav")]
)
def test_a_surround_file_is_mixed_by_its_own_layout(
    tmp_path: Path, layout: str, suffix: str
) -> None:
    count = 8 if layout == "7.1" else 6
    levels = np.arange(1, count + 1, dtype=np.float32) / 32
    samples = np.repeat(levels[:, None], 1000, axis=1)
    options = ("-af", f"aformat=channel_layouts={layout}", "-c:a", "flac")
    if suffix == "wav":
        options = (*options[:2], "-c:a", "pcm_s16le")
    path = encode(tmp_path / f"a.{suffix}", samples, 48000, *options)
    with decode_blocks(path) as decoder:
        assert (decoder.source_channels, decoder.channels) == (count, 2)
    left = levels[0] + HALF * levels[2] + HALF * levels[4::2].sum()
    right = levels[1] + HALF * levels[2] + HALF * levels[5::2].sum()
    mixed = decode(path)
    np.testing.assert_allclose(mixed[0], left, atol=1e-4)
    np.testing.assert_allclose(mixed[1], right, atol=1e-4)
    np.testing.assert_allclose(decode(path, channels=1), (left + right) / 2, atol=1e-4)


def test_loud_surround_is_not_turned_down(tmp_path: Path) -> None:
    samples = np.full((6, 100), 0.9, np.float32)
    options = ("-af", "aformat=channel_layouts=5.1", "-c:a", "pcm_f32le")
    path = encode(tmp_path / "a.wav", samples, 44100, *options)
    np.testing.assert_allclose(decode(path), 0.9 * (1 + 2 * HALF), rtol=1e-6)
