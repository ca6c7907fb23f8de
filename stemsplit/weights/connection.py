"""Asking a web server: proxies, certificates, redirects, and what each failure means.

urllib rather than what huggingface-hub brings: its HTTP library differs from version to version.
"""

from __future__ import annotations

import functools
import http.client
import importlib
import importlib.util
import os
import socket
import ssl
import time
import urllib.request
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import cast
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit

from stemsplit.errors import DownloadError, HttpStatusError, NetworkError
from stemsplit.weights.patience import Patience
from stemsplit.weights.sources import HttpSource

MAX_REDIRECTS = 10
MIN_BYTES_PER_S = 1024
"""A server that sends less than this, for as long as the time-out, has stalled."""

RETRY_HELP = "check the connection and try again: what has arrived is kept."
LATER_HELP = "try again later; if it stays so, the publisher's server is at fault."

_REDIRECTS = (301, 302, 303, 307, 308)
_WORTH_RETRYING = (408, 425, 429)
_STATUS_HELP = {
    401: "the file needs a login; see the model's source page.",
    403: "the publisher does not hand it out; see the model's source page.",
    404: "the publisher has moved it; a newer stemsplit may know where to.",
    407: "give the proxy's user and password in https_proxy.",
    410: "the publisher has taken it down; a newer stemsplit may know another place.",
}


class InterruptedDownload(Exception):
    """An attempt failed in a way that another may not: a signal that never leaves this room.

    Attributes:
        error: What to raise when no attempt is left.
        asked_s: How long the server asked to wait.
    """

    def __init__(self, error: DownloadError, asked_s: float | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.asked_s = asked_s


class Pace:
    """Notices a server that trickles: bytes keep coming, and the file never does."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.started = time.monotonic()
        self.count = 0

    def check(self, count: int) -> None:
        """Count the bytes of a block.

        Raises:
            TimeoutError: A whole window brought less than `MIN_BYTES_PER_S`.
        """
        self.count += count
        elapsed_s = time.monotonic() - self.started
        if elapsed_s < self.window_s:
            return
        if self.count < MIN_BYTES_PER_S * elapsed_s:
            raise TimeoutError
        self.started, self.count = time.monotonic(), 0


def open_url(
    url: str, headers: dict[str, str], patience: Patience, *, is_pinned: bool
) -> http.client.HTTPResponse:
    """Ask for a URL, follow redirects, and return an answer of status 200, 206 or 416.

    Args:
        url: http or https.
        headers: Sent with every request.
        patience: How long to wait for an answer.
        is_pinned: The file's sha256 is known, so that it may come over http.

    Raises:
        InterruptedDownload: 5xx, 408, 429, no connection ...: another try may succeed.
        HttpStatusError: Another status.
        NetworkError: Redirects without end or to where none may lead; a bad certificate.
    """
    opener = _make_opener()
    place = url
    for _ in range(MAX_REDIRECTS + 1):
        try:
            request = urllib.request.Request(place, headers=headers)
            answer = opener.open(request, timeout=patience.timeout_s)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise explain(error, url, patience) from error
        response = cast("http.client.HTTPResponse", answer)
        if response.status in (200, 206, 416):
            return response
        response.close()
        if response.status not in _REDIRECTS:
            raise _explain_status(response, url, patience)
        place = find_next(place, response.headers.get("Location"), is_pinned=is_pinned)
    raise NetworkError(f"{url} redirects more than {MAX_REDIRECTS} times", help=LATER_HELP)


def find_next(place: str, location: str | None, *, is_pinned: bool) -> str:
    """Return where a redirect leads.

    Args:
        place: The URL that redirects.
        location: What its Location header says.
        is_pinned: The file's sha256 is known.

    Raises:
        NetworkError: Nowhere, out of the web, or from https to http.
    """
    if not location:
        raise NetworkError(f"{place} redirects to nowhere", help=LATER_HELP)
    try:
        goal = urljoin(place, quote(location, safe="%/:=&?~#+!$,;'@()*[]"))
        scheme, host = urlsplit(goal).scheme, urlsplit(goal).hostname
    except ValueError:  # no URL at all
        goal, scheme, host = location, "", None
    goes_down = scheme == "http" and urlsplit(place).scheme == "https"
    if scheme not in ("http", "https") or not host or goes_down:
        raise NetworkError(f"{place} redirects to {goal}, which is not followed", help=LATER_HELP)
    if not is_pinned and not HttpSource(goal).is_secure:
        raise NetworkError(
            f"{place} redirects to {goal}, which anyone on the way can change",
            help="add the file's sha256 to its registry table.",
        )
    return goal


def explain(error: Exception, url: str, patience: Patience) -> NetworkError | InterruptedDownload:
    """Return what to raise for a failure of the connection.

    Args:
        error: What urllib, http.client or the socket raised.
        url: What was being fetched.
        patience: Whose time-out may have run out.
    """
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return NetworkError(
            f"the certificate of {url} is not to be trusted: {reason.verify_message}",
            help="behind a proxy with its own certificates, set SSL_CERT_FILE to theirs.",
        )
    if isinstance(reason, socket.gaierror):
        failure = NetworkError(
            f"the address of {url} cannot be found: {reason.strerror}",
            help="check the connection, and https_proxy where there is a proxy.",
        )
        return InterruptedDownload(failure) if reason.errno == socket.EAI_AGAIN else failure
    if isinstance(reason, UnicodeError):
        return NetworkError(f"{url} is no address: {reason}", help=LATER_HELP)
    if isinstance(reason, TimeoutError):
        told = f"{url} has sent nothing, or next to it, for {patience.timeout_s:g} s"
    else:
        told = f"the connection to {url} broke: {reason or type(reason).__name__}"
    return InterruptedDownload(NetworkError(told, help=RETRY_HELP))


def _explain_status(
    response: http.client.HTTPResponse, url: str, patience: Patience
) -> HttpStatusError | InterruptedDownload:
    status = response.status
    failure = HttpStatusError(
        f"{url} answered {status} {response.reason}".rstrip(),
        help=_STATUS_HELP.get(status, LATER_HELP),
    )
    if status < 500 and status not in _WORTH_RETRYING:
        return failure
    return InterruptedDownload(failure, parse_retry_after(response.headers.get("Retry-After")))


def parse_retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number of them, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max((when - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _make_opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone, through the environment's proxies.

    Every status comes back as an answer: there is nothing in it that redirects or raises.
    """
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.HTTPHandler())
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    context = _make_context(bundle, *map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))
    opener.add_handler(urllib.request.HTTPSHandler(context=context))
    opener.add_handler(urllib.request.UnknownHandler())
    opener.addheaders = []
    return opener


@functools.lru_cache(maxsize=4)
def _make_context(bundle: str | None, *_: str | None) -> ssl.SSLContext:
    """Trust what the system trusts, and what people set for requests and curl.

    Args:
        bundle: A file or folder of certificates.
        _: What OpenSSL reads by itself; here only because another value needs another context.

    Raises:
        NetworkError: `bundle` holds no certificates.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    # Python from python.org on macOS comes without any.
    has_none = bundle is None and paths.cafile is None and paths.capath is None
    if has_none and importlib.util.find_spec("certifi"):
        bundle = str(importlib.import_module("certifi").where())
    if bundle is not None:
        is_folder = os.path.isdir(bundle)
        try:
            context.load_verify_locations(
                cafile=None if is_folder else bundle, capath=bundle if is_folder else None
            )
        except OSError as error:
            raise NetworkError(
                f"{bundle!r} holds no certificates: {error}",
                help="let REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE name PEM certificates, or unset it.",
            ) from error
    return context
