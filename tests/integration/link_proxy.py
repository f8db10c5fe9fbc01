# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between two ends of a link that breaks connections, at any byte."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

#: how a connection breaks: with RST, with FIN, or for the client alone
RESET, FINISH, HALF = "reset", "finish", "half"


class Cutting:
    """One address before another. `budget` says how many bytes the next connection lasts; None: for
    good; 0: it is not even accepted. `way` says how it breaks."""

    def __init__(
        self,
        address: str,
        budget: Callable[[], int | None] = lambda: None,
        way: Callable[[], str] = lambda: RESET,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self.budget, self.way = budget, way
        self.cuts = self.connections = 0
        self._lock = threading.Lock()
        self._live: list[_Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            budget = self.budget()
            try:
                server = socket.create_connection(self._to) if budget != 0 else None
            except OSError:
                server = None
            if server is None:
                _break(client)
                continue
            with self._lock:
                self.connections += 1
                connection = _Connection(self, client, server, budget)
                self._live.append(connection)
            connection.start()

    def cut(self, way: str = RESET) -> None:
        """All connections, now."""
        with self._lock:
            live = list(self._live)
        for connection in live:
            connection.cut(way)

    def cut_one(self, which: int, way: str = RESET) -> None:
        """A connection by its number, from 0 in the order in which they came."""
        with self._lock:
            connection = self._live[which]
        connection.cut(way)

    def carried(self) -> list[int]:
        """Bytes of each connection so far, both ways."""
        with self._lock:
            return [connection.carried for connection in self._live]

    def broken(self) -> None:
        with self._lock:
            self.cuts += 1

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._live:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _break(sock: socket.socket, way: str = RESET) -> None:
    with contextlib.suppress(OSError):
        if way == RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR) if way != RESET else sock.close()


class _Connection:
    def __init__(
        self, owner: Cutting, client: socket.socket, server: socket.socket, budget: int | None
    ) -> None:
        self.owner, self.client, self.server, self.left = owner, client, server, budget
        self._lock = threading.Lock()
        self._over = False
        self.carried = 0
        self._threads = [
            threading.Thread(target=self._pump, args=ends)
            for ends in ((client, server), (server, client))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    if self._over:
                        return
                    passed = len(data)
                    if self.left is not None:
                        passed = min(passed, self.left)
                        self.left -= passed
                target.sendall(data[:passed])
                with self._lock:
                    self.carried += passed
                if passed < len(data) or self.left == 0:
                    self.owner.broken()
                    self.cut(self.owner.way())
                    return
        self.cut(FINISH)

    def cut(self, way: str) -> None:
        """Once. `half`: the server's side stays as it is, and hears nothing more."""
        with self._lock:
            if self._over:
                return
            self._over = True
        _wake(self.client)
        _break(self.client, way if way != HALF else FINISH)
        if way != HALF:
            _wake(self.server)
            _break(self.server, way)

    def close(self) -> None:
        for sock in (self.client, self.server):
            _wake(sock)
        for thread in self._threads:
            thread.join()
        self.client.close()
        self.server.close()


def _wake(sock: socket.socket) -> None:
    """A thread in recv goes on: closing alone does not do it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
