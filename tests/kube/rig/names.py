# SPDX-License-Identifier: Apache-2.0
"""The cluster's DNS: names of Services, and the addresses of the pods behind them.

No kube-proxy runs, so a Service's own address would lead nowhere: each is answered as if it had
none. Questions are RFC 1035's; of types, only A has answers.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from rig.client import ApiClient
from rig.machine import inside

__all__ = ["Names"]

_PORT = 53
_ZONE = ("svc", "cluster", "local")
_A, _IN = 1, 1
_UNKNOWN = 3  # NXDOMAIN
_IS_ANSWER = 0x8580  # authoritative; recursion was wished and is there
_HEADER = struct.Struct(">HHHHHH")
_LOOK_S = 0.5


class Names:
    """Answers until it is stopped.

    Args:
        netns: where the address is.
        address: its own.
        client: of the API server.
    """

    def __init__(self, netns: str, address: str, client: ApiClient) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, _PORT))
            made.settimeout(_LOOK_S)
            return made

        self._client, self._socket = client, inside(netns, make)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="names", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                question, asker = self._socket.recvfrom(512)
                # An API server that is away: no answer; the resolver asks again.
                with contextlib.suppress(OSError, ValueError, struct.error):
                    self._socket.sendto(self._answer(question), asker)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], _HEADER.size
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        kind, _ = struct.unpack_from(">HH", question, at + 1)
        asked = question[_HEADER.size : at + 5]
        found = self._addresses(labels)
        told = (found or []) if kind == _A else []
        flags = _IS_ANSWER | (_UNKNOWN if found is None else 0)
        (number,) = struct.unpack_from(">H", question)
        answer = _HEADER.pack(number, flags, 1, len(told), 0, 0) + asked
        for address in told:
            # The name is the question's: a pointer to it. It holds for no time.
            answer += struct.pack(">HHHIH", 0xC00C, _A, _IN, 0, 4) + socket.inet_aton(address)
        return answer

    def _addresses(self, labels: list[str]) -> list[str] | None:
        """Of the pods behind a name that are ready; None: there is no such name."""
        if len(labels) != 2 + len(_ZONE) or tuple(labels[2:]) != _ZONE:
            return None
        service, namespace = labels[:2]
        found = self._client.find(f"/api/v1/namespaces/{namespace}/endpoints/{service}")
        if found is None:
            return None
        return [one["ip"] for part in found.get("subsets", ()) for one in part.get("addresses", ())]
