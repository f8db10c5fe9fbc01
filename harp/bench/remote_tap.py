# SPDX-License-Identifier: Apache-2.0
"""A relay on loopback that counts the bytes of each direction. Nothing is timed through it."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

__all__ = ["Tap", "tap"]

_PIECE = 1 << 16


class Tap:
    """Relays connections to a port, one at a time."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._there = self._back = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def counts(self) -> tuple[int, int]:
        """Bytes there and back, since it began."""
        return self._there, self._back

    def close(self) -> None:
        """No more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with (
                contextlib.suppress(OSError),
                client,
                socket.create_connection(("127.0.0.1", self._to)) as server,
            ):
                self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(_PIECE)
                if not data:
                    return
                if ready is client:
                    self._there += len(data)
                    server.sendall(data)
                else:
                    self._back += len(data)
                    client.sendall(data)


@contextlib.contextmanager
def tap(to: int) -> Iterator[Tap]:
    """A relay to a port of this host while the block runs."""
    made = Tap(to)
    try:
        yield made
    finally:
        made.close()
