from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from folders import MUSDB, add_stem_mp4, add_track

from stemsplit.datasets import AudioFile, Dataset, Validation, open_dataset, parse_validation
from stemsplit.datasets.splits import MUSDB18_VALIDATION, require
from stemsplit.errors import DatasetError, UnknownNameError, UsageError


def splits_of(dataset: Dataset) -> dict[str, str]:
    return {track.name: track.split for track in dataset.tracks}


def test_musdb18_is_its_streams_in_order(tmp_path: Path) -> None:
    for place, name in [("train", "A - B"), ("train", MUSDB18_VALIDATION[0]), ("test", "C")]:
        add_stem_mp4(tmp_path / place / f"{name}.stem.mp4")
    dataset = open_dataset(tmp_path)
    assert dataset.stems == MUSDB
    assert splits_of(dataset) == {"A - B": "train", MUSDB18_VALIDATION[0]: "valid", "C": "test"}
    path = tmp_path / "train" / "A - B.stem.mp4"
    assert dataset.tracks[0].mixture == AudioFile(path, 0)
    streams = enumerate(MUSDB, start=1)
    assert dict(dataset.tracks[0].stems) == {stem: AudioFile(path, n) for n, stem in streams}
    assert dataset.problems == ()


def test_a_bare_folder_of_stem_mp4_is_for_training(tmp_path: Path) -> None:
    add_stem_mp4(tmp_path / "B.stem.mp4")
    add_stem_mp4(tmp_path / "A.stem.mp4")
    dataset = open_dataset(tmp_path, stems=["vocals", "drums"])
    assert splits_of(dataset) == {"A": "train", "B": "train"}
    assert [*dataset.tracks[0].stems] == ["vocals", "drums"]


def test_the_test_folder_may_be_alone_or_absent(tmp_path: Path) -> None:
    add_track(tmp_path / "test" / "A", ("mixture", *MUSDB))
    assert splits_of(open_dataset(tmp_path)) == {"A": "test"}
    shutil.move(tmp_path / "test", tmp_path / "train")
    assert splits_of(open_dataset(tmp_path)) == {"A": "train"}


def test_musdb18_hq_has_its_mixture_and_no_stem_of_that_name(tmp_path: Path) -> None:
    folder = add_track(tmp_path / "train" / "A", ("mixture", "vocals", "other", "bass", "drums"))
    dataset = open_dataset(tmp_path)
    assert dataset.stems == MUSDB
    assert dataset.tracks[0].mixture == AudioFile(folder / "mixture.wav")


def test_sums_of_stems_are_no_stems_unless_they_are_one_of_two(tmp_path: Path) -> None:
    sums = ("accompaniment", "linear_mixture", "no_vocals")
    add_track(tmp_path / "four" / "A", (*MUSDB, *sums))
    assert open_dataset(tmp_path / "four").stems == MUSDB
    add_track(tmp_path / "two" / "A", ("vocals", "accompaniment"))
    dataset = open_dataset(tmp_path / "two")
    assert dataset.stems == ("vocals", "accompaniment")
    assert dataset.tracks[0].mixture is None


def test_stems_of_ones_own_are_those_that_most_tracks_have(tmp_path: Path) -> None:
    for name in "abc":
        add_track(tmp_path / name, ("piano", "voice"), suffix="flac")
    (tmp_path / "b" / "voice.flac").unlink()
    add_track(tmp_path / "c", ("kazoo",))
    dataset = open_dataset(tmp_path)
    assert dataset.stems == ("piano", "voice")
    assert [track.name for track in dataset.tracks] == ["a", "c"]
    assert dataset.problems == (
        "kazoo: is in 1 of 3 tracks, no stem therefore",
        "b: lacks voice, left out",
    )
    assert open_dataset(tmp_path, stems=["kazoo"]).tracks[0].name == "c"


def test_hidden_empty_and_stray_things_are_no_tracks(tmp_path: Path) -> None:
    add_track(tmp_path / "train" / "A")
    add_track(tmp_path / "train" / ".A.part")
    add_track(tmp_path / "B")
    (tmp_path / "train" / "notes").mkdir()
    (tmp_path / "train" / "A" / "._drums.wav").write_bytes(b"")
    (tmp_path / "train" / "A" / "gone.wav").symlink_to("nowhere")
    dataset = open_dataset(tmp_path)
    assert [track.name for track in dataset.tracks] == ["A"]
    assert dataset.stems == MUSDB
    assert dataset.problems == (
        "notes: holds no sound file",
        "B: is beside the folders of the splits and in none, left out",
    )


def test_a_track_may_be_called_test(tmp_path: Path) -> None:
    add_track(tmp_path / "test")
    add_track(tmp_path / "train")
    assert splits_of(open_dataset(tmp_path)) == {"test": "train", "train": "train"}


def test_links_other_case_and_taken_apart_letters(tmp_path: Path) -> None:
    name = "Lücke 夜"
    add_track(tmp_path / "elsewhere", ("Vocals", "DRUMS"))
    root = tmp_path / "root"
    root.mkdir()
    (root / unicodedata.normalize("NFD", name)).symlink_to(tmp_path / "elsewhere")
    dataset = open_dataset(root, stems=["Vocals"], valid=Validation())
    assert dataset.tracks[0].name == name
    assert dataset.tracks[0].stems["vocals"].path.read_bytes()


def test_wav_is_taken_before_flac(tmp_path: Path) -> None:
    add_track(tmp_path / "A", ("voice", "piano"), suffix="flac")
    add_track(tmp_path / "A", ("voice",))
    stems = open_dataset(tmp_path).tracks[0].stems
    assert [stems[name].path.suffix for name in ("piano", "voice")] == [".flac", ".wav"]


def test_a_decoded_track_is_taken_before_its_stem_mp4(tmp_path: Path) -> None:
    add_track(tmp_path / "A")
    add_stem_mp4(tmp_path / "A.stem.mp4")
    dataset = open_dataset(tmp_path)
    assert [track.stems["bass"].path.suffix for track in dataset.tracks] == [".wav"]
    assert dataset.problems == ()


def test_a_track_in_two_splits_stays_in_the_test(tmp_path: Path) -> None:
    add_track(tmp_path / "train" / "A")
    add_track(tmp_path / "train" / "B")
    add_track(tmp_path / "test" / "A")
    dataset = open_dataset(tmp_path)
    assert splits_of(dataset) == {"A": "test", "B": "train"}
    assert dataset.problems == ("A: is in train and in test again, left out of train",)


def test_other_formats_lead_to_prepare(tmp_path: Path) -> None:
    add_track(tmp_path / "A", ("drums", "bass"))
    (tmp_path / "A" / "bass.wav").rename(tmp_path / "A" / "bass.mp3")
    with pytest.raises(DatasetError, match=r"bass\.mp3.*neither wav nor flac") as caught:
        open_dataset(tmp_path)
    assert "stemsplit prepare --root" in caught.value.help
    dataset = open_dataset(tmp_path, any_format=True)
    assert dataset.tracks[0].stems["bass"].path.suffix == ".mp3"


def test_no_tracks_names_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds nothing"):
        open_dataset(tmp_path)
    add_track(tmp_path, ("vocals", "drums"))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DatasetError, match=r"1 folders, 2 \.wav files") as caught:
        open_dataset(tmp_path)
    assert "STEM.wav" in caught.value.help
    with pytest.raises(DatasetError, match="there is no folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot be read as a folder"):
        open_dataset(tmp_path / "vocals.wav")


def test_stems_that_nobody_has(tmp_path: Path) -> None:
    add_track(tmp_path / "a", ("piano", "voice"))
    add_track(tmp_path / "b", ("kazoo", "violin"))
    with pytest.raises(UnknownNameError, match="voices") as caught:
        open_dataset(tmp_path, stems=["voices"])
    assert "voice" in caught.value.help
    with pytest.raises(DatasetError, match="no stem in common"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="has all of the stems"):
        open_dataset(tmp_path, stems=["piano", "violin"])
    with pytest.raises(UsageError, match="no stem"):
        open_dataset(tmp_path, stems=[])


def test_a_description_names_stems_aliases_and_splits(tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        add_track(tmp_path / name, ("Lead Vocal", "piano", "full mix", "click"))
    (tmp_path / "dataset.toml").write_text(
        'stems = ["voice", "Piano"]\nvalid = "B"\ntest = ["C", "D"]\n'
        '[aliases]\nvoice = ["singing", "lead vocal"]\nmixture = "full mix"\n',
        encoding="utf-8",
    )
    dataset = open_dataset(tmp_path)
    assert dataset.stems == ("voice", "piano")
    assert splits_of(dataset) == {"A": "train", "B": "valid", "C": "test"}
    assert dataset.tracks[0].mixture == AudioFile(tmp_path / "A" / "full mix.wav")
    assert dataset.problems == ("D: is named in dataset.toml, and there is no such track",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stems = [", "cannot be read as TOML"),
        ("stem = []", "no key 'stem'"),
        ("stems = 3", "stems = 3"),
        ('valid = [["A"]]', "valid = "),
        ('aliases = "voice"', "aliases = 'voice'"),
        ("[aliases]\nvoice = 1", "voice = 1"),
    ],
)
def test_a_wrong_description_is_told(tmp_path: Path, text: str, complaint: str) -> None:
    add_track(tmp_path / "A")
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    with pytest.raises((DatasetError, UnknownNameError), match=complaint):
        open_dataset(tmp_path)


def make_numbered(root: Path, count: int) -> None:
    for index in range(count):
        add_stem_mp4(root / "train" / f"song {index}.stem.mp4")


def test_a_share_validates_and_adding_tracks_moves_few(tmp_path: Path) -> None:
    make_numbered(tmp_path, 20)
    add_stem_mp4(tmp_path / "test" / "last.stem.mp4")
    before = {t.name for t in open_dataset(tmp_path, valid=Validation(share=0.2)).select("valid")}
    assert len(before) == 4
    assert before != {f"song {index}" for index in (0, 1, 10, 11)}
    make_numbered(tmp_path, 25)
    after = {t.name for t in open_dataset(tmp_path, valid=Validation(share=0.2)).select("valid")}
    assert len(after) == 5
    assert len(before & after) >= 3
    tiny = open_dataset(tmp_path, valid=Validation(share=0.001))
    assert len(tiny.select("valid")) == 1
    assert len(open_dataset(tmp_path, valid=Validation(share=0.999)).select("train")) == 1


def test_names_validate_and_unknown_ones_are_told(tmp_path: Path) -> None:
    make_numbered(tmp_path, 3)
    dataset = open_dataset(tmp_path, valid=parse_validation("song 2, song 0"))
    assert [track.name for track in dataset.select("valid")] == ["song 0", "song 2"]
    with pytest.raises(UnknownNameError, match="song 3"):
        open_dataset(tmp_path, valid=Validation(names=("song 3",)))


def test_a_folder_validates_until_something_else_is_asked(tmp_path: Path) -> None:
    make_numbered(tmp_path, 2)
    add_stem_mp4(tmp_path / "train" / f"{MUSDB18_VALIDATION[3]}.stem.mp4")
    add_stem_mp4(tmp_path / "valid" / "own.stem.mp4")
    assert [t.name for t in open_dataset(tmp_path).select("valid")] == ["own"]
    dataset = open_dataset(tmp_path, valid=Validation(names=("song 0",)))
    assert [track.name for track in dataset.select("valid")] == ["song 0"]


def test_the_standard_fourteen_can_stay_in_training(tmp_path: Path) -> None:
    for name in MUSDB18_VALIDATION:
        add_stem_mp4(tmp_path / "train" / f"{name}.stem.mp4")
    assert len(open_dataset(tmp_path).select("valid")) == 14
    assert not open_dataset(tmp_path, valid=Validation(standard=False)).select("valid")


def test_the_fourteen_are_those_of_the_musdb_package(distribution_file) -> None:  # type: ignore[no-untyped-def]
    import yaml

    table = yaml.safe_load(distribution_file("musdb", "musdb/configs/mus.yaml").read_text())
    assert sorted(table["validation_tracks"]) == sorted(MUSDB18_VALIDATION)
    assert table["stem_ids"] == dict(zip(("mixture", *MUSDB), range(5), strict=True))


@pytest.mark.parametrize("text", ["0", "1", "-0.5", "nan", "7", " , "])
def test_impossible_validation_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_validation(text)
    with pytest.raises(UsageError):
        Validation(names=("a",), share=0.5)


def test_an_empty_split_is_refused_before_anything_begins(tmp_path: Path) -> None:
    make_numbered(tmp_path, 2)
    dataset = open_dataset(tmp_path)
    require(dataset, "train")
    with pytest.raises(DatasetError, match=r"no track for validation; it has 2 train, 0 valid"):
        require(dataset, "train", "valid")
    with pytest.raises(DatasetError, match="no track for the test"):
        require(dataset, "test")
