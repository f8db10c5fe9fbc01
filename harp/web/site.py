# SPDX-License-Identifier: Apache-2.0
"""What is answered: three files, and the API. Read-only.

(1) On loopback a name that is not this machine's is refused: a page of somebody else's could
    otherwise have its own name stand for 127.0.0.1 and read ours with the user's browser.
(2) Where there is a token, the API is for who has it. The files are the same for everybody.
(3) Nothing of another site may be in the page, and the page in no other: CSP. No CORS.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qs

from harp.metrics.server import Page, Request, Server, Stream
from harp.web.door import Door
from harp.web.feed import Feed

__all__ = ["FIELDS", "Site"]

_TEXT = "text/plain; charset=utf-8"
#: browsers open six connections to a page
_CLIENTS = 32
_CSP = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " object-src 'none'"
)
#: of every answer
FIELDS = (
    ("Content-Security-Policy", _CSP),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}": (name, "text/javascript; charset=utf-8")
        for name in ("known.js", "charts.js", "page.js")
    },
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s,]+)(?::[0-9]{1,5})?")
_SINCE = re.compile(r"[0-9]{1,15}")


class Site:
    """Answers of one harpd.

    Args:
        feed: what the API tells.
        door: to whom.
    """

    def __init__(self, feed: Feed, door: Door) -> None:
        self._feed = feed
        self._door = door
        folder = files("harp") / "web" / "static"
        self._pages: Mapping[str, Page] = {
            path: Page((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    def server(self) -> Server:
        """What serves it."""
        return Server(self.respond, clients=_CLIENTS, tls=self._door.tls, fields=FIELDS)

    async def respond(self, request: Request) -> Page | Stream:
        """The answer to a GET or HEAD."""
        if self._door.loopback and not _is_this_machine(request.fields.get("host", "")):
            return _said(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this is served to localhost and 127.0.0.1 alone, and was asked for another name",
            )
        if page := self._pages.get(request.path):
            return page
        if request.path == "/favicon.ico":  # browsers ask, and complain of a 404
            return Page(b"", status=HTTPStatus.NO_CONTENT)
        if not request.path.startswith("/api/"):
            there = " ".join((*self._pages, "/api/v1/{state,samples,events}"))
            return _said(HTTPStatus.NOT_FOUND, f"there is {there}")
        if not self._known(request):
            return Page(
                b"a token is needed: Authorization: Bearer TOKEN\n",
                status=HTTPStatus.UNAUTHORIZED,
                fields=(("WWW-Authenticate", 'Bearer realm="harp"'),),
            )
        return self._api(request)

    def _known(self, request: Request) -> bool:
        if not self._door.token:
            return True
        scheme, _, token = request.fields.get("authorization", "").partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self._door.token.encode())
        return same and scheme.lower() == "bearer"

    def _api(self, request: Request) -> Page | Stream:
        since = _since(request)
        if since is None:
            return _said(HTTPStatus.BAD_REQUEST, "since=NUMBER is a sample's number, from 0")
        match request.path:
            case "/api/v1/state":
                return _json(self._feed.state())
            case "/api/v1/samples":
                return _json(self._feed.samples(since))
            case "/api/v1/events":
                reader = self._feed.read(since)
                if reader is None:
                    said = _said(HTTPStatus.SERVICE_UNAVAILABLE, "too many readers; try later")
                    return Page(said.body, status=said.status, fields=(("Retry-After", "10"),))
                return Stream(reader, reader.close, "text/event-stream; charset=utf-8")
            case _:
                return _said(HTTPStatus.NOT_FOUND, "there is /api/v1/{state,samples,events}")


def _is_this_machine(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _since(request: Request) -> int | None:
    """The number of the last sample that the client has; None: it says something else."""
    asked = parse_qs(request.query, keep_blank_values=True).get("since")
    text = asked[-1] if asked else request.fields.get("last-event-id", "0")
    return int(text) if _SINCE.fullmatch(text) else None


def _json(text: bytes) -> Page:
    return Page(text, "application/json")


def _said(status: HTTPStatus, text: str) -> Page:
    return Page(f"{text}\n".encode(), _TEXT, status)
