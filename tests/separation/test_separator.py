from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_model import LinearModel
from torch import Tensor

from stemsplit.backends.choice import Core
from stemsplit.backends.workers import Workers, wait_for
from stemsplit.dsp import memory
from stemsplit.dsp.threads import set_own_threads
from stemsplit.errors import (
    DecodeError,
    EmptyAudioError,
    StemsplitError,
    UnknownNameError,
    UsageError,
)
from stemsplit.models.base import ChunkPlan, Encoded, Member
from stemsplit.models.ensemble import Ensemble
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.models.spleeter import Spleeter, SpleeterConfig
from stemsplit.separation import framed_network, lanes
from stemsplit.separation.cores import make_core
from stemsplit.separation.events import Finished, Progress, Started, StemBlock
from stemsplit.separation.separator import Separator

SHARES = {"vocals": 0.3, "accompaniment": 0.7}


def music(samples: int, channels: int = 2, amplitude: float = 0.3) -> Tensor:
    dice = torch.Generator().manual_seed(samples)
    noise = torch.randn(channels, samples, generator=dice)
    return amplitude * noise.clamp(-3, 3)


@pytest.mark.parametrize("samples", [1, 100, 4096, 50_000, 200_001])
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_have_the_mixtures_length_and_channels(samples: int, channels: int) -> None:
    mixture = music(samples, channels)
    stems = Separator(LinearModel()).separate(mixture)
    for stem, share in SHARES.items():
        assert stems[stem].shape == mixture.shape
        torch.testing.assert_close(stems[stem], share * mixture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("amplitude", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("options", [{}, {"overlap": 0.5}, {"overlap": 0.0}, {"shifts": 3}])
def test_a_network_that_changes_nothing_leaves_no_seam(
    amplitude: float, options: dict[str, float]
) -> None:
    mixture = music(150_000, amplitude=amplitude)
    stems = Separator(LinearModel(), **options).separate(mixture)
    total = sum(stems.values())
    torch.testing.assert_close(total, mixture, rtol=0, atol=2e-6 * amplitude)


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000])
def test_other_rates_come_back_at_their_own(rate: int) -> None:
    time_s = torch.arange(2 * rate) / rate
    tone = torch.sin(2 * torch.pi * 440 * time_s).repeat(2, 1)
    stems = Separator(LinearModel()).separate(tone, sample_rate=rate)
    assert stems["vocals"].shape == tone.shape
    middle = slice(rate // 10, -rate // 10)
    share = SHARES["vocals"]
    torch.testing.assert_close(
        stems["vocals"][:, middle], share * tone[:, middle], rtol=0, atol=3e-4
    )


def test_the_residual_is_what_is_left() -> None:
    mixture = music(90_000)
    stems = Separator(LinearModel(), stems=("vocals",), residual=True).separate(mixture)
    assert tuple(stems) == ("vocals", "residual")
    torch.testing.assert_close(stems["vocals"] + stems["residual"], mixture, rtol=0, atol=1e-7)
    two = Separator(LinearModel(), two_stems="vocals").separate(mixture)
    assert tuple(two) == ("vocals", "no_vocals")
    assert torch.equal(two["no_vocals"], stems["residual"])


def test_the_residual_sums_exactly_at_another_rate_too() -> None:
    mixture = music(48_000)
    stems = Separator(LinearModel(), residual=True).separate(mixture, sample_rate=48000)
    torch.testing.assert_close(sum(stems.values()), mixture, rtol=0, atol=1e-6)


def test_a_chunked_recurrent_network_agrees_with_the_whole_song() -> None:
    """An untrained LSTM forgets within a second, which is the context that a chunk gives it."""
    torch.manual_seed(0)
    model = OpenUnmix(OpenUnmixConfig.tiny(("vocals", "drums"))).eval()
    mixture = music(300_000)
    whole = Separator(model, framing="original").separate(mixture)
    chunked = Separator(model, segment_s=4.5, overlap=0.5).separate(mixture)
    for stem, expected in whole.items():
        assert (chunked[stem] - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("samples", [1, 9000, 16_384, 40_000])
def test_a_network_of_one_length_gets_that_length(samples: int) -> None:
    class Fixed(LinearModel):
        def encode(self, mixture: Tensor) -> Encoded:
            assert mixture.shape[-1] == self.chunk.samples
            return super().encode(mixture)

    model = Fixed()
    model.chunk = ChunkPlan(16_384, 0.25, edge_samples=1024, multiple_of=1024, fixed=True)
    mixture = music(samples)
    stems = Separator(model).separate(mixture)
    torch.testing.assert_close(stems["vocals"], 0.3 * mixture, rtol=0, atol=1e-6)


def test_shifts_are_seeded() -> None:
    torch.manual_seed(0)
    model = Spleeter(SpleeterConfig.tiny(("vocals", "accompaniment"))).eval()
    mixture = music(150_000)
    first, again, other = (
        Separator(model, shifts=2, seed=seed).separate(mixture)["vocals"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_frames_of_shifts_lie_as_far_apart_as_they_can() -> None:
    model = LinearModel()
    model.chunk = ChunkPlan(16_384, 0.25, edge_samples=1024, multiple_of=1024, fixed=True)
    for shifts in (2, 4):
        lanes = Separator(model, shifts=shifts)._make_lanes()._lanes
        phases = sorted(lane._to_drop % 1024 for lane in lanes)
        assert phases == [1024 * place // shifts for place in range(shifts)]


def test_events_of_a_file(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(100_000))
    events = list(Separator(LinearModel()).stream(path))
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert (started.sample_rate, started.channels) == (44100, 2)
    assert started.total_samples == pytest.approx(100_000, abs=441)
    assert isinstance(finished, Finished)
    assert finished.samples == 100_000
    position = 0
    for event in events:
        if isinstance(event, StemBlock):
            assert event.start == position
            position += event.stems["vocals"].shape[-1]
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].done_samples == position == 100_000


def test_a_file_and_its_samples_give_the_same(tmp_path: Path) -> None:
    mixture = (music(100_000) * 32768).round() / 32768
    path = write_wav(tmp_path / "song.wav", mixture)
    separator = Separator(LinearModel())
    from_file, from_array = separator.separate(path), separator.separate(mixture)
    for stem in separator.stems:
        torch.testing.assert_close(from_file[stem], from_array[stem], rtol=0, atol=1e-6)


def test_start_and_duration(tmp_path: Path) -> None:
    mixture = (music(100_000) * 32768).round() / 32768
    path = write_wav(tmp_path / "song.wav", mixture)
    stems = Separator(LinearModel(), start_s=0.5, duration_s=1.0).separate(path)
    expected = SHARES["vocals"] * mixture[:, 22050 : 22050 + 44100]
    torch.testing.assert_close(stems["vocals"], expected, rtol=0, atol=1e-6)


def test_closing_the_stream_stops_every_thread(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(3_000_000))
    before = threading.active_count()
    events = Separator(LinearModel()).stream(path)
    assert any(isinstance(event, StemBlock) for event in events)
    events.close()
    assert threading.active_count() == before


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("options", [{}, {"shifts": 3}])
def test_chunks_side_by_side_come_back_in_the_songs_order(options: dict[str, float]) -> None:
    mixture = music(150_000)
    stems = Separator(LinearModel(), **options).separate(mixture)
    for stem, share in SHARES.items():
        torch.testing.assert_close(stems[stem], share * mixture, rtol=0, atol=1e-6)


class LargeModel(LinearModel):
    is_large = True


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("model", [LinearModel, LargeModel])
def test_a_song_in_a_thread_of_its_own_has_chunks_for_the_threads_there(
    model: type[LinearModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--jobs` gives each song a share of the threads."""
    counts: list[int] = []

    def begin(count: int) -> Workers:
        counts.append(count)
        return Workers(count)

    monkeypatch.setattr(lanes, "Workers", begin)
    separator = Separator(model())

    def separate(threads: int) -> None:
        set_own_threads(threads)
        separator.separate(music(50_000))

    for threads in (4, 2, 1):
        song = threading.Thread(target=separate, args=(threads,))
        song.start()
        song.join()
    assert counts == ([2, 1, 1] if model is LargeModel else [2, 2, 1])


@pytest.mark.usefixtures("four_threads")
def test_a_large_network_sets_the_number_of_chunks_for_those_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []

    def make(*args: Any, workers: int, **options: Any) -> Core:
        told.append(workers)
        return make_core(*args, workers=workers, **options)

    monkeypatch.setattr(framed_network, "make_core", make)
    torch.set_num_threads(2)
    members = [Member(one, dict.fromkeys(SHARES, 0.5)) for one in (LinearModel(), LargeModel())]
    both = Ensemble(tuple(SHARES), members)
    assert [network.workers for network in Separator(both)._networks] == [1, 1]
    assert [network.workers for network in Separator(LinearModel())._networks] == [2]
    whole = Separator(LinearModel(), framing="original")
    assert [network.workers for network in whole._networks] == [1]
    assert told == [1, 1, 2, 1]


@pytest.mark.usefixtures("four_threads")
def test_what_outlives_a_chunk_leaves_its_workers_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FEWEST_BYTES", 1)
    model = OpenUnmix(OpenUnmixConfig.tiny(("vocals",))).eval()
    separator = Separator(model)
    (network,) = separator._networks
    workers = Workers(2)

    def work() -> tuple[bool, int]:
        (stems,) = network.begin([music(network.framing.chunk_samples or 0)])()
        return memory._OWN.lease is not None, stems.data_ptr()

    has_own, place = wait_for(workers.submit(work))
    workers.close()
    assert has_own
    starts = [
        (np.frombuffer(segment.memory, np.uint8).ctypes.data, len(segment.memory))
        for segment in memory._COMMON._segments
    ]
    assert any(start <= place < start + size for start, size in starts)


@pytest.mark.usefixtures("four_threads")
def test_chunks_side_by_side_stop_when_the_stream_is_closed(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "song.wav", music(3_000_000))
    before = set(threading.enumerate())
    events = Separator(LinearModel()).stream(path)
    assert any(isinstance(event, StemBlock) for event in events)
    events.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert torch.get_num_threads() == 4


def test_a_file_that_is_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(b"this is not a song" * 100)
    with pytest.raises(DecodeError):
        Separator(LinearModel()).separate(path)


def test_arrays_that_are_no_song() -> None:
    with pytest.raises(UsageError, match=r"\(3, 10\)"):
        Separator(LinearModel()).separate(torch.zeros(3, 10))
    with pytest.raises(EmptyAudioError):
        Separator(LinearModel()).separate(torch.zeros(2, 0))


def test_options_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match="vocals"):
        Separator(LinearModel(), stems=("vocal",))
    with pytest.raises(UnknownNameError):
        Separator(LinearModel(), device="gpu")
    with pytest.raises(UsageError, match="spectrograms"):
        Separator(LinearModel(), wiener=1)


def test_a_network_that_gives_no_numbers_is_not_written() -> None:
    class Broken(LinearModel):
        def decode(self, *args: object, **kwargs: object) -> Tensor:
            return super().decode(*args, **kwargs) * float("nan")  # type: ignore[arg-type]

    with pytest.raises(StemsplitError, match="not numbers"):
        Separator(Broken()).separate(music(10_000))


def write_wav(path: Path, samples: Tensor) -> Path:
    import wave

    pcm = np.clip(np.rint(samples.numpy().T * 32768), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(pcm.tobytes())
    return path


def test_stems_asked_for_in_another_order_keep_their_names_with_a_filter() -> None:
    model = Spleeter(SpleeterConfig.tiny(("vocals", "accompaniment"))).eval()
    mixture = torch.randn(2, 60_000, generator=torch.Generator().manual_seed(0))
    usual = Separator(model, wiener=1).separate(mixture)
    turned = Separator(model, wiener=1, stems=("accompaniment", "vocals")).separate(mixture)
    assert list(turned) == ["accompaniment", "vocals"]
    for stem in usual:
        torch.testing.assert_close(turned[stem], usual[stem])


@pytest.mark.parametrize("rate", [44100, 48000])
def test_stems_that_share_the_mixture_add_up_to_it(rate: int) -> None:
    model = Spleeter(SpleeterConfig.tiny(("vocals", "drums", "other"))).eval()
    mixture = music(60_000)
    stems = Separator(model).separate(mixture, rate)
    total = torch.stack(tuple(stems.values())).sum(dim=0)
    torch.testing.assert_close(total, mixture, rtol=0, atol=1e-6)
    if rate == model.sample_rate:
        alone = Separator(model, stems=("other",)).separate(mixture)["other"]
        torch.testing.assert_close(stems["other"], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"wiener": 1}, {"framing": "original"}])
@torch.no_grad()
def test_a_network_of_one_channel_hears_each_channel_by_itself(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = OpenUnmixConfig.tiny(("vocals", "drums"))
    model = OpenUnmix(replace(config, channels=1)).eval()
    mixture = music(90_000)
    both = Separator(model, **options).separate(mixture)
    for channel in (0, 1):
        alone = Separator(model, **options).separate(mixture[channel : channel + 1])
        for stem in model.stems:
            got = both[stem][channel : channel + 1]
            torch.testing.assert_close(got, alone[stem], rtol=1e-4, atol=1e-5)
