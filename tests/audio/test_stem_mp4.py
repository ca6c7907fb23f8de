from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sounds import decode, encode, make_music

from stemsplit.audio import probe, write_stem_mp4
from stemsplit.audio.stem_mp4 import build_atom, build_description, split_atoms
from stemsplit.errors import DecodeError, OutputError, UnknownNameError, UsageError

NAMES = ("Drums", "Bass", "Other", "Vocals")
LENGTH = 30_011


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, Path]]]:
    folder = tmp_path_factory.mktemp("stems")
    music = make_music(LENGTH)
    stems = []
    for number, name in enumerate(NAMES):
        path = encode(folder / f"{name}.wav", music * (number + 1) / 10, 44100, "-c:a", "pcm_s24le")
        stems.append((name, path))
    return encode(folder / "mix.wav", music, 44100, "-c:a", "pcm_s24le"), stems


def read_atoms(data: bytes, *kinds: bytes) -> list[bytes]:
    found = [data]
    for kind in kinds:
        found = [body for outer in found for this, body in split_atoms(outer) if this == kind]
    return found


@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_the_mixture_first_and_the_stems_behind(
    tmp_path: Path, sounds: tuple[Path, list[tuple[str, Path]]], codec: str
) -> None:
    path = tmp_path / "new" / "song.stem.mp4"
    write_stem_mp4(path, *sounds, tags={"title": "T=1; #"}, codec=codec)  # type: ignore[arg-type]
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    info = probe(path)
    assert [stream.codec for stream in info.streams] == [codec] * 5
    assert [stream.default for stream in info.streams] == [True, False, False, False, False]
    assert info.tags["title"] == "T=1; #"
    music = make_music(LENGTH)
    for track, gain in enumerate((1.0, 0.1, 0.2, 0.3, 0.4)):
        decoded = decode(path, stream=track)
        assert 0 <= decoded.shape[1] - LENGTH < 1024
        if codec == "alac":
            np.testing.assert_allclose(decoded, music * gain, atol=2**-22)
        else:
            error = ((decoded[:, :LENGTH] - music * gain) ** 2).mean() / (music * gain).var()
            assert error < 0.1


def test_the_atom_that_dj_programs_look_for(
    tmp_path: Path, sounds: tuple[Path, list[tuple[str, Path]]]
) -> None:
    path = tmp_path / "a.stem.mp4"
    write_stem_mp4(path, *sounds)
    data = path.read_bytes()
    assert data[8:12] == b"M4A "
    [atom] = read_atoms(data, b"moov", b"udta", b"stem")
    document = json.loads(atom)
    assert document["version"] == 1
    assert [stem["name"] for stem in document["stems"]] == list(NAMES)
    colours = [stem["color"] for stem in document["stems"]]
    assert len(set(colours)) == 4
    assert all(len(colour) == 7 and int(colour[1:], 16) >= 0 for colour in colours)
    assert set(document["mastering_dsp"]) == {"compressor", "limiter"}
    assert not document["mastering_dsp"]["compressor"]["enabled"]
    headers = read_atoms(data, b"moov", b"trak", b"tkhd")
    assert [header[3] & 1 for header in headers] == [1, 0, 0, 0, 0]  # only the mixture is on


def test_the_same_files_give_the_same_bytes(
    tmp_path: Path, sounds: tuple[Path, list[tuple[str, Path]]]
) -> None:
    for name in ("a", "b"):
        write_stem_mp4(tmp_path / name, *sounds, tags={"artist": "A"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_kinds_of_input_become_stereo_tracks(tmp_path: Path) -> None:
    mixture = encode(tmp_path / "-m.mp3", make_music(LENGTH, 1), 44100)
    stem = encode(tmp_path / "a:b%d.flac", make_music(LENGTH, 1, 96000), 96000)
    write_stem_mp4(tmp_path / "x.stem.mp4", mixture, [("voice = \n é", stem)])
    streams = probe(tmp_path / "x.stem.mp4").streams
    assert [(stream.sample_rate, stream.channels) for stream in streams] == [(44100, 2)] * 2


def test_nonsense_is_refused(tmp_path: Path, sounds: tuple[Path, list[tuple[str, Path]]]) -> None:
    mixture, stems = sounds
    target = tmp_path / "out" / "x.stem.mp4"
    with pytest.raises(UsageError, match="needs stems"):
        write_stem_mp4(target, mixture, [])
    with pytest.raises(UnknownNameError, match="opus"):
        write_stem_mp4(target, mixture, stems, codec="opus")  # type: ignore[arg-type]
    for kbps in (0, 1000):
        with pytest.raises(UsageError, match=str(kbps)):
            write_stem_mp4(target, mixture, stems, bit_rate_kbps=kbps)
    for files in ((tmp_path / "no", stems), (mixture, [("x", tmp_path / "no")])):
        with pytest.raises(DecodeError, match="no file"):
            write_stem_mp4(target, *files)
    assert not target.parent.exists()
    tmp_path.joinpath("folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_stem_mp4(tmp_path / "folder", mixture, stems)


def test_a_failure_leaves_nothing(
    tmp_path: Path,
    sounds: tuple[Path, list[tuple[str, Path]]],
    fake_ffmpeg: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    infos = {path: probe(path) for path in (sounds[0], *(path for _, path in sounds[1]))}
    monkeypatch.setattr("stemsplit.audio.stem_mp4.probe", infos.__getitem__)
    fake_ffmpeg('echo "[error] No space left on device" >&2; exit 1')
    with pytest.raises(OutputError, match="disk is full"):
        write_stem_mp4(tmp_path / "out" / "x.stem.mp4", *sounds)
    assert list((tmp_path / "out").iterdir()) == []
    fake_ffmpeg("exit 0")  # and writes nothing
    with pytest.raises(Exception, match="index is not at its end"):
        write_stem_mp4(tmp_path / "out" / "x.stem.mp4", *sounds)
    assert list((tmp_path / "out").iterdir()) == []


def test_atoms_come_apart_and_together() -> None:
    atoms = [(b"abcd", b""), (b"efgh", b"12345")]
    assert list(split_atoms(b"".join(build_atom(*atom) for atom in atoms))) == atoms
    assert list(split_atoms(struct.pack(">I4s", 0, b"zero"))) == []


def test_more_stems_than_colours() -> None:
    stems = json.loads(build_description([str(number) for number in range(20)]))["stems"]
    assert len(stems) == 20


@pytest.mark.skipif(
    not (shutil.which("ffprobe") and shutil.which("ffmpeg")),
    reason="stempeg needs ffmpeg and ffprobe on PATH",
)
@pytest.mark.filterwarnings("ignore")
def test_stempeg_reads_it(tmp_path: Path, sounds: tuple[Path, list[tuple[str, Path]]]) -> None:
    stempeg = pytest.importorskip("stempeg", reason="stempeg is not installed")
    path = tmp_path / "a.stem.mp4"
    write_stem_mp4(path, *sounds, codec="alac")
    stems, rate = stempeg.read_stems(str(path))
    assert rate == 44100
    assert stems.shape[0] == 5
    np.testing.assert_allclose(stems[2, :LENGTH].T, make_music(LENGTH) * 0.2, atol=1e-4)
    assert stempeg.Info(str(path)).title_streams == ["Mixture", *NAMES]
