# SPDX-License-Identifier: Apache-2.0
"""Single requests to the API server, and its streams of changes. Safe to use from several threads.

JSON in and out, over the connections of the `kubernetes` package. Nothing is tried again here: who
asks knows whether that is right.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlencode

import urllib3

from harp.errors import DaemonUnreachable
from harp.kube.access import Access

__all__ = ["Answer", "ApiServer", "Asking", "Object", "Refused", "Stream"]

_CONNECT_S = 2.0
#: of one line of a stream; an object is at most 1.5 MiB in etcd, JSON may be longer
_LINE_MAX = 16 << 20
_PIECE = 64 << 10

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server says."""

    status: int
    body: Object

    @property
    def good(self) -> bool:
        """Done as asked."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def why(self) -> str:
        """Its own words where it says no; for people."""
        return f"{self.status} {self.body.get('message') or self.body.get('reason') or ''}".strip()


class Asking(Protocol):
    """One request and its answer; ApiServer is one."""

    def ask(self, method: str, path: str, body: object = None, *, timeout_s: float = 5.0) -> Answer:
        """Ask. PATCH is a JSON merge patch.

        Raises:
            DaemonUnreachable: no answer; whether it was done is not known.
        """
        ...


class Refused(DaemonUnreachable):
    """A stream that the API server does not give."""

    def __init__(self, answer: Answer, path: str) -> None:
        super().__init__(
            f"the API server answers {answer.why} to a watch of {path}",
            "let the service account list and watch it",
        )
        self.status = answer.status


class Stream:
    """Changes as they come; close() may be called from another thread, and ends it."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer
        connection = getattr(answer, "connection", None)
        #: kept from the start: the answer forgets it where it ends
        self._socket: socket.socket | None = getattr(connection, "sock", None)

    def __iter__(self) -> Iterator[Object]:
        """Each change.

        Raises:
            DaemonUnreachable: it broke off. A stream that the server ends just ends.
        """
        try:
            for line in _lines(self._answer.stream(_PIECE)):
                yield _mapping(json.loads(line))
        except (OSError, urllib3.exceptions.HTTPError, ValueError, AttributeError) as error:
            # AttributeError: http.client's own, where it is closed while it reads
            raise DaemonUnreachable(f"the API server's stream broke off: {error}") from error

    def close(self) -> None:
        """End it; a reader of it is woken."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class ApiServer:
    """Requests by one identity.

    Args:
        access: where, and as whom.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    def ask(self, method: str, path: str, body: object = None, *, timeout_s: float = 5.0) -> Answer:
        """See Asking."""
        try:
            answer = self._send(method, path, body, timeout_s)
            return Answer(answer.status, _body(answer.status, answer.data))
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            raise self._away(error) from error

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, read_s: float) -> Iterator[Stream]:
        """Watch; nothing for `read_s` seconds counts as broken off.

        Raises:
            DaemonUnreachable: no answer, or one that is no stream.
            Refused: as DaemonUnreachable; see its `status`.
        """
        try:
            answer = self._send("GET", f"{path}?{urlencode(query)}", None, read_s, whole=False)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise self._away(error) from error
        try:
            if answer.status != HTTPStatus.OK:
                try:
                    body = _body(answer.status, answer.data)
                except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
                    raise self._away(error) from error
                raise Refused(Answer(answer.status, body), path)
            yield Stream(answer)
        finally:
            answer.close()  # not given back: it may end within a line

    def _send(
        self, method: str, path: str, body: object, read_s: float, *, whole: bool = True
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", **self._access.headers()}
        raw = None
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            headers["Content-Type"] = f"application/{kind}"
            raw = json.dumps(body).encode()
        answer: urllib3.BaseHTTPResponse = self._access.client.rest_client.pool_manager.request(
            method,
            self._access.url + path,
            body=raw,
            headers=headers,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_s),
            retries=False,
            redirect=False,
            preload_content=whole,
        )
        return answer

    def _away(self, error: Exception) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"the API server at {self._access.url} does not answer: {error}",
            "is it up, and does it know this identity and certificate authority?",
        )


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that are not empty.

    Raises:
        ValueError: it ends within a line, or a line has no end.
    """
    begun = b""
    for piece in pieces:
        *done, begun = (begun + piece).split(b"\n")
        yield from filter(None, done)
        if len(begun) > _LINE_MAX:
            raise ValueError(f"a line of more than {_LINE_MAX} bytes")
    if begun:
        raise ValueError("it ended within a line")


def _body(status: int, raw: bytes) -> Object:
    try:
        return _mapping(json.loads(raw or b"{}"))
    except ValueError:
        if status < HTTPStatus.BAD_REQUEST:
            raise
        return {"message": raw[:200].decode(errors="replace")}


def _mapping(value: object) -> Object:
    if not isinstance(value, dict):
        raise ValueError("JSON that is no object")  # noqa: TRY004 - as json's own for bad text
    return value
