"""The loader: every batch holds what was drawn, whoever reads it and wherever a run begins."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.datasets import AudioFile, Dataset, open_dataset, open_index
from stemsplit.errors import DatasetError, UnknownNameError, UsageError
from stemsplit.evaluation.references import References
from stemsplit.models.open_unmix import OpenUnmix, OpenUnmixConfig
from stemsplit.training import loader as loader_module
from stemsplit.training.loader import (
    ExcerptLoader,
    Excerpts,
    Pending,
    count_excerpt,
    make_loader,
    select_stems,
)
from stemsplit.training.sampling import SILENT, DataConfig

RATE = 44100
STEMS = ("bass", "drums", "vocals")
LENGTHS = (3000, 5000, 700)
PLAIN = DataConfig(samples_per_track=8, random_mix="tracks", workers=0)


def write_track(folder: Path, number: int, *, channels: int = 2, rate: int = RATE) -> None:
    folder.mkdir(parents=True)
    for place, stem in enumerate(STEMS):
        # Every sample says which track, stem, channel and place it is from.
        time = np.arange(LENGTHS[number])
        value = 1000 * (3 * number + place) + time[:, None] % 1000
        samples = value / 2**15 * (1 - 2 * np.arange(channels))
        soundfile.write(folder / f"{stem}.wav", samples, rate, "PCM_16")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("songs")
    for number in range(3):
        write_track(root / f"song {number}", number)
    return open_dataset(root, stems=STEMS)


def build(dataset: Dataset, config: DataConfig = PLAIN, **options: object) -> ExcerptLoader:
    values = {"excerpt": 600, "batch": 4, "channels": 2, "sample_rate": RATE, **options}
    return make_loader(dataset, open_index(dataset), config, **values)  # type: ignore[arg-type]  # options of several types


def read_all(loader: ExcerptLoader) -> list[Excerpts]:
    return list(loader)


def join(batches: list[Excerpts]) -> Tensor:
    return torch.cat([batch.stems for batch in batches])


def test_a_batch_holds_what_its_places_say(dataset: Dataset) -> None:
    loader = build(dataset)
    batches = read_all(loader)
    assert len(batches) == len(loader) == 6
    for stems, where in batches:
        assert stems.shape == (4, 3, 2, 600)
        for item, places in enumerate(where):
            for place, (track, start) in enumerate(places):
                number = int(loader.tracks[track].name.split()[1])
                time = np.arange(start, start + 600)
                expected = (1000 * (3 * number + place) + time % 1000) / 2**15
                # Zeros where a track has ended.
                expected[time >= LENGTHS[number]] = 0
                np.testing.assert_allclose(stems[item, place, 0], expected, atol=1e-7)
                np.testing.assert_allclose(stems[item, place, 1], -expected, atol=1e-7)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_threads(dataset: Dataset, workers: int) -> None:
    alone = read_all(build(dataset))
    loader = build(dataset, replace(PLAIN, workers=workers))
    for left, right in zip(alone, loader, strict=True):
        assert left.where == right.where
        assert torch.equal(left.stems, right.stems)
    loader.close()


def test_a_resumed_epoch_goes_on_where_it_was(dataset: Dataset) -> None:
    loader = build(dataset, seed=5)
    loader.set_epoch(2)
    whole = join(read_all(loader))
    resumed = build(dataset, seed=5)
    resumed.set_epoch(2, start_batch=4)
    assert torch.equal(join(read_all(resumed)), whole[16:])
    # For one iteration: the next begins at the beginning.
    assert torch.equal(join(read_all(resumed)), whole)
    resumed.set_epoch(3)
    assert not torch.equal(join(read_all(resumed)), whole)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch_without_overlap(dataset: Dataset, world: int) -> None:
    whole = build(dataset, batch=2 * world)
    ranks = [build(dataset, batch=2, rank=rank, world=world) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    together = [join(list(batches)) for batches in zip(*ranks, strict=True)]
    assert torch.equal(torch.cat(together), join(read_all(whole)))


def test_silence_is_read_from_nowhere(dataset: Dataset) -> None:
    loader = build(dataset, replace(PLAIN, lead_silent_p=1.0), leads=("drums",))
    for stems, where in loader:
        assert all(places[1].track == SILENT for places in where)
        assert stems[:, 1].abs().max() == 0
        assert stems[:, 0].abs().max() > 0


def test_some_batches_are_read_ahead(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = build(dataset, replace(PLAIN, workers=2))
    begun: list[int] = []
    begin = loader._begin

    def count(epoch: int, number: int, pool: ThreadPoolExecutor | None) -> Pending:
        begun.append(number)
        return begin(epoch, number, pool)

    monkeypatch.setattr(loader, "_begin", count)
    batches = iter(loader)
    next(batches)
    assert begun == [0, 1, 2]
    next(batches)
    assert begun == [0, 1, 2, 3]
    loader.close()


def test_what_is_not_wanted_any_more_is_not_read(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    read, may_go_on = loader_module.read_excerpt, threading.Event()

    def count(file: AudioFile, start: int, samples: int) -> NDArray[np.float32]:
        opened.append(file)
        if len(opened) > 12:
            may_go_on.wait(timeout=10)
        return read(file, start, samples)

    monkeypatch.setattr(loader_module, "read_excerpt", count)
    loader = build(dataset, replace(PLAIN, workers=1))
    batches = iter(loader)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator, whose end is what is tested
    may_go_on.set()
    assert loader._pool is not None
    loader._pool.shutdown()
    assert len(opened) <= 13


def test_mono_files_and_models(tmp_path: Path, dataset: Dataset) -> None:
    write_track(tmp_path / "song 0", 0, channels=1)
    narrow = open_dataset(tmp_path, stems=STEMS)
    stems = next(iter(build(narrow))).stems
    assert torch.equal(stems[:, :, 0], stems[:, :, 1])
    assert stems.abs().max() > 0
    # The two channels of the stereo files are each other's opposite.
    assert next(iter(build(dataset, channels=1))).stems.abs().max() < 1e-7


def test_another_rate_is_refused_before_training(tmp_path: Path) -> None:
    write_track(tmp_path / "song 0", 0, rate=48000)
    other = open_dataset(tmp_path, stems=STEMS)
    with pytest.raises(UsageError, match=r"48000 Hz.*44100 Hz\n.*prepare --sample-rate 44100"):
        build(other)


def test_more_channels_than_the_model_are_refused(tmp_path: Path) -> None:
    write_track(tmp_path / "song 0", 0, channels=3)
    other = open_dataset(tmp_path, stems=STEMS)
    with pytest.raises(UsageError, match="3 channels, and the model 2"):
        build(other)


def test_tracks_that_judge_have_to_fit_too(tmp_path: Path) -> None:
    write_track(tmp_path / "train/song 0", 0)
    write_track(tmp_path / "valid/song 1", 1, rate=22050)
    with pytest.raises(UsageError, match="'song 1' has 22050 Hz, and the model 44100 Hz"):
        build(open_dataset(tmp_path, stems=STEMS))


def test_a_mixture_that_judges_has_to_fit_too(tmp_path: Path) -> None:
    write_track(tmp_path / "train/song 0", 0)
    write_track(tmp_path / "valid/song 1", 1)
    soundfile.write(tmp_path / "valid/song 1/mixture.wav", np.zeros((5000, 4)), RATE)
    with pytest.raises(UsageError, match="'song 1' has 4 channels, and the model 2"):
        build(open_dataset(tmp_path, stems=STEMS))


def test_an_epoch_without_a_batch(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="24 excerpts does not make a batch of 10 for each of 3"):
        build(dataset, batch=10, world=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanished_is_named(tmp_path: Path, workers: int) -> None:
    write_track(tmp_path / "song 0", 0)
    songs = open_dataset(tmp_path, stems=STEMS)
    loader = build(songs, replace(PLAIN, workers=workers))
    (tmp_path / "song 0" / "drums.wav").unlink()
    with pytest.raises(DatasetError, match=r"drums\.wav"):
        read_all(loader)
    loader.close()


def test_the_length_of_an_excerpt() -> None:
    model = OpenUnmix(OpenUnmixConfig(STEMS, hidden_size=4))
    assert count_excerpt(model, DataConfig(excerpt_s=6.0)) == 264600
    own = DataConfig(excerpt_s=0.0)
    assert count_excerpt(model, own) == model.chunk.samples
    assert count_excerpt(model, own, centred=False) == model.chunk.samples + 4096


# Which stems are learned


def test_stems_in_the_order_wanted() -> None:
    stems = torch.randn(2, 3, 1, 5)
    mixture, chosen = select_stems(stems, STEMS, ("vocals", "bass"))
    assert torch.equal(mixture, stems.sum(1))
    assert torch.equal(chosen, stems[:, [2, 0]])


@pytest.mark.parametrize(
    "wanted", [("accompaniment",), ("vocals", "accompaniment"), ("accompaniment", "drums")]
)
def test_accompaniment_is_all_but_vocals_whatever_else_is_wanted(wanted: tuple[str, ...]) -> None:
    stems = torch.randn(2, 3, 1, 5)
    _, chosen = select_stems(stems, STEMS, wanted)
    assert torch.equal(chosen[:, wanted.index("accompaniment")], stems[:, [0, 1]].sum(1))


@pytest.mark.parametrize("stem", ["drums", "accompaniment", "no_vocals", "no_bass"])
def test_what_is_learned_is_what_is_scored(stem: str) -> None:
    stems = torch.randn(1, 3, 2, 5)
    mixture, chosen = select_stems(stems, STEMS, (stem,))
    references = References(dict(zip(STEMS, stems[0], strict=True)), mixture[0], RATE)
    assert torch.equal(chosen[0, 0], references.find(stem))


def test_an_accompaniment_of_the_data_set_is_taken_as_it_is() -> None:
    stems = torch.randn(2, 2, 1, 5)
    names = ("vocals", "accompaniment")
    _, chosen = select_stems(stems, names, ("accompaniment", "no_accompaniment"))
    assert torch.equal(chosen, stems[:, [1, 0]])


def test_accompaniment_without_vocals_is_refused() -> None:
    with pytest.raises(UsageError, match="'accompaniment' is the mixture without 'vocals', and"):
        select_stems(torch.randn(1, 2, 1, 5), STEMS[:2], ("drums", "accompaniment"))


def test_the_rest_of_a_single_stem_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing is left of the mixture without 'vocals'"):
        select_stems(torch.randn(1, 1, 1, 5), ("vocals",), ("no_vocals",))


def test_the_mixture_without_a_stem() -> None:
    stems = torch.randn(2, 3, 1, 5)
    _, chosen = select_stems(stems, STEMS, ("no_drums",))
    assert torch.equal(chosen[:, 0], stems[:, [0, 2]].sum(1))


@pytest.mark.parametrize("name", ["vocal", "no_vocal", "no_"])
def test_a_stem_that_there_is_not(name: str) -> None:
    with pytest.raises(UnknownNameError, match="stem of the data set"):
        select_stems(torch.randn(1, 3, 1, 5), STEMS, (name,))
