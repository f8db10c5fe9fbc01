# SPDX-License-Identifier: Apache-2.0
"""The API server, asked from outside of its network namespace."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rig.machine import connect

__all__ = ["ApiClient", "ApiError"]


class ApiError(OSError):
    """The API server says no.

    Attributes:
        status: HTTP's.
    """

    def __init__(self, status: int, what: str, message: str) -> None:
        super().__init__(f"{what}: {status}: {message}")
        self.status = status


class ApiClient:
    """One user's."""

    def __init__(self, netns: str, host: str, port: int, authority: Path, token: str) -> None:
        self._netns, self._host, self._port, self._token = netns, host, port, token
        self._tls = ssl.create_default_context(cafile=str(authority))

    def text(self, method: str, path: str, body: object = None, kind: str = "json") -> str:
        """Ask; the answer's body.

        Raises:
            ApiError: it says no.
            OSError: it does not answer.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        raw = connect(self._netns, self._host, self._port)
        connection.sock = self._tls.wrap_socket(raw, server_hostname=self._host)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json, */*"}
            if body is not None:
                headers["Content-Type"] = f"application/{kind}"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise ApiError(answer.status, f"{method} {path}", _message(said))
        return said

    def get(self, path: str, **query: str) -> Any:
        """An object, or a list of them."""
        return json.loads(self.text("GET", f"{path}?{urlencode(query)}" if query else path))

    def find(self, path: str) -> Any:
        """An object; None: there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == http.client.NOT_FOUND:
                return None
            raise

    def create(self, path: str, body: object) -> Any:
        """A new object."""
        return json.loads(self.text("POST", path, body))

    def merge(self, path: str, body: object) -> Any:
        """An object changed by a merge patch."""
        return json.loads(self.text("PATCH", path, body, "merge-patch+json"))

    def delete(self, path: str, grace_s: int = 0) -> None:
        """An object gone, or about to be; it need not be there."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace_s,
            "propagationPolicy": "Background",
        }
        try:
            self.text("DELETE", path, body)
        except ApiError as error:
            if error.status != http.client.NOT_FOUND:
                raise


def _message(said: str) -> str:
    try:
        return str(json.loads(said).get("message", said))
    except ValueError:
        return said[:500]
