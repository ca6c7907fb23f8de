from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import encode, make_music, run_ffmpeg

from stemsplit.audio import StreamInfo, probe
from stemsplit.audio.ffmpeg import LOCAL_ONLY, find_ffmpeg
from stemsplit.audio.probe import count_channels
from stemsplit.audio.readable import is_text
from stemsplit.errors import DecodeError

MUSIC = make_music(44100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def wav(folder: Path) -> Path:
    return encode(folder / "song.wav", MUSIC)


@pytest.fixture(scope="module")
def film(folder: Path) -> Path:
    """A video with two sound tracks: mono German, and 5.1 English, which is the default."""
    sound = (
        "-f",
        "lavfi",
        "-i",
        "sine=440:r=48000:d=1",
        "-filter_complex",
        "[1:a]asplit[x][b];[x]aformat=channel_layouts=mono[a];[b]aformat=channel_layouts=5.1[c]",
    )
    tracks = ("-map", "0:v", "-map", "[a]", "-map", "[c]", "-c:a", "flac", "-c:v", "mpeg4",
              "-metadata:s:a:0", "language=ger", "-metadata:s:a:1", "language=eng",
              "-metadata:s:a:1", "title=Director, 48000 Hz, mono",
              "-disposition:a:0", "0", "-disposition:a:1", "default")  # fmt: skip
    path = folder / "film.mkv"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:d=1", *sound, *tracks, str(path))
    return path


@pytest.mark.parametrize(
    ("suffix", "options", "codec"),
    [
        ("wav", (), "pcm_s16le"),
        ("flac", (), "flac"),
        ("mp3", (), "mp3"),
        ("m4a", (), "aac"),
        ("ogg", ("-c:a", "libvorbis"), "vorbis"),
        ("mka", ("-c:a", "libmp3lame"), "mp3"),
        ("aiff", (), "pcm_s16be"),
        ("wma", (), "wmav2"),
        ("ac3", (), "ac3"),
        ("caf", ("-c:a", "alac"), "alac"),
    ],
)
def test_streams_of_many_formats(
    tmp_path: Path, suffix: str, options: tuple[str, ...], codec: str
) -> None:
    info = probe(encode(tmp_path / f"a.{suffix}", MUSIC, 44100, *options))
    [stream] = info.streams
    assert (stream.index, stream.codec) == (0, codec)
    assert (stream.sample_rate, stream.channels, stream.layout) == (44100, 2, "stereo")
    assert info.duration_s == pytest.approx(1.0, abs=0.06)
    assert not info.has_cover
    assert not info.has_video


@pytest.mark.parametrize("sample_rate", [8000, 11025, 96000, 192000])
def test_rates_and_mono(tmp_path: Path, sample_rate: int) -> None:
    [stream] = probe(encode(tmp_path / "a.wav", MUSIC[:1], sample_rate)).streams
    assert (stream.sample_rate, stream.channels, stream.layout) == (sample_rate, 1, "mono")


def test_streams_of_a_film(film: Path) -> None:
    info = probe(film)
    assert info.has_video
    assert info.streams == (
        StreamInfo(0, "flac", 48000, 1, "mono", "ger", None, default=False),
        StreamInfo(1, "flac", 48000, 6, "5.1", "eng", "Director, 48000 Hz, mono", default=True),
    )


def test_nine_channels_without_a_layout(tmp_path: Path) -> None:
    path = tmp_path / "nine.wav"
    soundfile.write(path, np.zeros((100, 9), np.float32), 44100)
    [stream] = probe(path).streams
    assert stream.channels == 9


@pytest.mark.parametrize(
    ("layout", "channels"),
    [
        ("mono", 1),
        ("stereo", 2),
        ("2.1", 3),
        ("5.1(side)", 6),
        ("7.1.4", 12),
        ("22.2", 24),
        ("9 channels", 9),
        ("4 channels (FL+FR+LFE+BC)", 4),
        ("hexadecagonal", 16),
        ("ambisonic 1", 4),
        ("ambisonic 2+stereo", 11),
        ("0 channels", 0),
        ("", 0),
        ("whatever", 0),
    ],
)
def test_layouts_are_counted(layout: str, channels: int) -> None:
    assert count_channels(layout) == channels


def test_tags_whatever_is_in_them(tmp_path: Path) -> None:
    tags = {
        "title": "a\n  Stream #0:7: Audio: fake, 1 Hz, mono\n[STREAM]\nx=y",
        "artist": "Björk 🎵 ; # = \\",
        "album": "Duration: 99:99:99.99,",
    }
    options = [part for key, value in tags.items() for part in ("-metadata", f"{key}={value}")]
    info = probe(encode(tmp_path / "a.mp3", MUSIC, 44100, *options))
    assert len(info.streams) == 1
    assert info.duration_s == pytest.approx(1.0, abs=0.06)
    assert {key: info.tags[key] for key in tags} == tags


@pytest.mark.parametrize("suffix", ["ogg", "opus", "flac"])
def test_tags_of_a_song_in_vorbis_comments(tmp_path: Path, suffix: str) -> None:
    codec = {"ogg": ("-c:a", "libvorbis"), "opus": ("-c:a", "libopus")}.get(suffix, ())
    path = encode(tmp_path / f"a.{suffix}", MUSIC, 48000, *codec, "-metadata", "TITLE=T")
    assert probe(path).tags["title"] == "T"


@pytest.mark.parametrize("suffix", ["mp3", "m4a", "flac"])
def test_covers(tmp_path: Path, suffix: str) -> None:
    image = tmp_path / "i.png"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64", "-frames:v", "1", str(image))
    options = ("-i", str(image), "-map", "0:a", "-map", "1:v", "-c:v", "copy")
    path = encode(
        tmp_path / f"a.{suffix}", MUSIC, 44100, *options, "-disposition:v", "attached_pic"
    )
    info = probe(path)
    assert info.has_cover
    assert info.cover_stream == 1
    assert not info.has_video


@pytest.mark.skipif(os.name != "posix", reason="such names exist on POSIX only")
@pytest.mark.parametrize(
    "name",
    [
        "-i.wav",
        "http:x.wav",
        "concat:a.wav|b.wav",
        "a%03d.wav",
        "pipe:0.wav",
        "[a].wav",
        "a'b\"c`$(x);&.wav",
        "*?.wav",
        " .wav",
        "🎵 음악 موسيقى é.wav",
        "a\n  Stream #0:9: Audio: fake, 1 Hz, mono.wav",
        "x', from 'file:y.wav",
        "é" * 125 + "a.wav",
        "no-suffix",
    ],
)
def test_a_name_is_only_a_name(
    tmp_path: Path, wav: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(wav.read_bytes())
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(name)):
        info = probe(given)
        assert info.path == given
        assert len(info.streams) == 1
        assert info.container == "wav"


@pytest.mark.skipif(os.name != "posix", reason="such names exist on POSIX only")
def test_a_name_that_is_no_unicode(tmp_path: Path, wav: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    try:
        path.write_bytes(wav.read_bytes())
    except OSError:
        pytest.skip("this file system wants names in Unicode")
    assert len(probe(path).streams) == 1


def test_a_changed_file_is_asked_again(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", MUSIC)
    assert probe(path) is probe(path)
    encode(path, MUSIC[:1], 8000)
    assert probe(path).streams[0].channels == 1


def refuse(path: Path) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        probe(path)
    assert repr(str(path)) in caught.value.message
    assert caught.value.help.endswith(".")
    return caught.value


def test_no_file(tmp_path: Path) -> None:
    assert "there is no file" in refuse(tmp_path / "a.wav").message


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "a\0b.wav"])
def test_names_that_cannot_be(name: str) -> None:
    assert "cannot be read" in refuse(Path(name)).message


def test_a_file_as_a_folder(wav: Path) -> None:
    assert "cannot be read" in refuse(wav / "a.wav").message


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in refuse(tmp_path).message


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert "0 bytes" in refuse(tmp_path / "a.wav").message


@pytest.mark.skipif(os.name != "posix", reason="named pipes are POSIX")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refuse(tmp_path / "pipe").message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "permission denied" in refuse(path).message


def test_permission_denied_is_told(
    tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "permission denied" in refuse(wav).message


def test_a_file_that_goes_while_it_is_looked_at(
    wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(wav.read_bytes())
    answered = subprocess.run

    def answer_and_delete(*args: Any, **kwargs: Any) -> Any:
        done = answered(*args, **kwargs)
        path.unlink()
        return done

    monkeypatch.setattr(subprocess, "run", answer_and_delete)
    assert "there is no file" in refuse(path).message


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.m4a", "a.ogg", "a.bin"])
def test_garbage(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(7).bytes(20_000))
    assert "ffmpeg says: " in refuse(path).message


@pytest.mark.parametrize("text", ["hello", "{}\n", "ä" * 3000, "\ufeff# Title\n\n- list\n"])
def test_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.mp3"
    path.write_text(text, encoding="utf-8")
    assert "is text" in refuse(path).message


def test_text_may_be_cut_within_a_character() -> None:
    assert is_text("ä".encode() * 10 + b"\xc3")
    assert not is_text(b"abc\xff")
    assert not is_text(b"abc\0")


def test_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64", "-frames:v", "1", "-f", "image2",
               "-c:v", "png", str(path))  # fmt: skip
    assert "it is an image" in refuse(path).message


def test_a_silent_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:d=1", "-c:v", "mpeg4", str(path))
    assert "a video without sound" in refuse(path).message


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
    "hls.wav": "#EXTM3U\n#EXTINF:10,\n{url}\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{url}'\n",
    "list.pls": "[playlist]\nFile1={url}\n",
    "dash.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{url}'
    "</BaseURL></MPD>",
    "bom.m3u8": "\ufeff#EXTM3U\n{url}\n",
    "binary.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#\0",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing(tmp_path: Path, wav: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(url=wav), encoding="utf-8")
    assert "is a playlist" in refuse(path).message


def test_ffmpeg_is_kept_from_the_network(tmp_path: Path) -> None:
    # Should a playlist ever get past the first look, ffmpeg itself must refuse to leave.
    path = tmp_path / "list"
    path.write_text("ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.wav'\n")
    reader = ("-f", "concat", "-safe", "0", *LOCAL_ONLY, "-i", f"file:{path}")
    command = [str(find_ffmpeg()), "-hide_banner", *reader]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "not on whitelist 'file,pipe'" in done.stderr
