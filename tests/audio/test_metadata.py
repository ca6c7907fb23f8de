from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import encode, make_music, run_ffmpeg

from stemsplit.audio import probe
from stemsplit.audio.metadata import build_metadata, keep_tags, parse_metadata

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n=;#\\"))


@given(st.dictionaries(st.from_regex(r"[a-z_ ]{1,9}", fullmatch=True), TEXT))
def test_what_is_written_is_read(tags: dict[str, str]) -> None:
    whole, streams = parse_metadata(build_metadata(tags))
    assert whole == {key: value for key, value in tags.items() if value.strip()}
    assert streams == []


def test_streams_and_chapters_are_told_apart() -> None:
    text = ";FFMETADATA1\ntitle=a\n[STREAM]\nlanguage=eng\n[CHAPTER]\ntitle=c\n[STREAM]\nTITLE=b\n"
    assert parse_metadata(text) == ({"title": "a"}, [{"language": "eng"}, {"title": "b"}])


def test_the_first_of_equal_keys_wins_whatever_its_case() -> None:
    assert parse_metadata("TITLE=a\ntitle=b\nempty=\n=c\nnothing\n")[0] == {"title": "a"}


NASTY = {
    "title": "a=b;c#d\\e\nf [STREAM]",
    "artist": "Sigur Rós 🎵 \u200fعربى",
    "comment": " spaces around ",
    "lyrics": "la " * 60_000,
}


def test_ffmpeg_reads_what_is_written(tmp_path: Path) -> None:
    document = tmp_path / "tags"
    document.write_text(build_metadata(NASTY), encoding="utf-8")
    path = encode(tmp_path / "a.flac", make_music(1000))
    tagged = tmp_path / "b.flac"
    run_ffmpeg("-i", str(path), "-f", "ffmetadata", "-i", str(document), "-map", "0:a",
               "-map_metadata", "1", "-c", "copy", str(tagged))  # fmt: skip
    found = dict(probe(tagged).tags)
    found.pop("encoder", None)
    assert found == NASTY


def test_technical_tags_are_left_out_and_the_rest_is_sorted() -> None:
    tags = {
        "title": "t",
        "Artist": "a",
        "encoder": "Lavf",
        "iTunSMPB": "0000",
        "REPLAYGAIN_TRACK_GAIN": "-9 dB",
        "R128_TRACK_GAIN": "0",
        "major_brand": "M4A ",
        "empty": "  ",
        "bad\nkey": "x",
        "a=b": "x",
        "": "x",
        "NUL": "a\0b",
        "half": "\ud800",
    }
    kept = keep_tags(tags)
    assert kept == {"artist": "a", "half": "?", "nul": "ab", "title": "t"}
    assert list(kept) == sorted(kept)


@pytest.mark.parametrize("text", ["", "\\", "\\\n", "=\n=", "[STREAM]", "a\\", "a=\\"])
def test_broken_documents_are_read_without_a_fuss(text: str) -> None:
    parse_metadata(text)
