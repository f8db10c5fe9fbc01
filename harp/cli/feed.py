# SPDX-License-Identifier: Apache-2.0
"""Samples for `harp top`, from a harpd that may go away, come back, or be too old to send any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.errors import DaemonError, HarpError

__all__ = ["Feed", "News", "sample_of"]

#: between two tries to find harpd again
_RETRY_S = 1.0
#: harpd sends at least so often
_LONGEST_MS = 1000
OLDER = "harpd is older than this program and is asked each time: harp daemon --upgrade"


@dataclass(frozen=True, slots=True)
class News:
    """A sample, or why there is none."""

    reply: pb.WatchSamplesReply | None
    said: str = ""  #: about how things are; empty: well


class Feed:
    """News, one after the other, until it is closed."""

    def __init__(self, connect: Callable[[], Client], interval_s: float) -> None:
        self._connect = connect
        self._interval_s = interval_s
        self._closed = threading.Event()
        self._client: Client | None = None

    def close(self) -> None:
        """End it, from whatever thread."""
        self._closed.set()
        client = self._client
        if client is not None:
            client.close()

    def news(self) -> Iterator[News]:
        """A sample as often as asked; what keeps it from coming, once each try."""
        while not self._closed.is_set():
            try:
                with self._connect() as self._client:
                    if not self._closed.is_set():
                        yield from self._of(self._client)
                said = "harpd has ended"
            except HarpError as error:
                said = error.message
            if not self._closed.is_set():
                yield News(None, f"{said}; trying again")
            self._closed.wait(_RETRY_S)

    def _of(self, client: Client) -> Iterator[News]:
        try:
            shown_ns = 0
            for reply in client.watch(min(_LONGEST_MS, round(self._interval_s * 1000))):
                # Rarer than harpd sends: those between the shown ones.
                if reply.sample.at_ns - shown_ns >= (self._interval_s - 0.5) * 1e9:
                    shown_ns = reply.sample.at_ns
                    yield News(reply, reply.sample.problem)
        except DaemonError as error:
            # Only who does not know the call answers with the bare class.
            if type(error) is not DaemonError:
                raise
            yield from self._asked(client)

    def _asked(self, client: Client) -> Iterator[News]:
        while not self._closed.is_set():
            yield News(pb.WatchSamplesReply(sample=sample_of(client.state())), OLDER)
            self._closed.wait(self._interval_s)


def sample_of(state: pb.GetStateReply) -> pb.Sample:
    """The answer of a harpd that knows no samples, as one."""
    return pb.Sample(
        now_s=state.now_s,
        at_ns=round(state.now_s * 1e9),
        devices=state.devices,
        tenants=[
            pb.TenantSample(
                tenant_id=tenant.tenant_id,
                name=tenant.name,
                uid=tenant.uid,
                user=tenant.user,
                mem_limit_bytes=tenant.mem_limit_bytes,
                share_ppm=tenant.share_ppm,
                limit_ppm=tenant.limit_ppm,
                tenant_class=tenant.tenant_class,
                created_s=tenant.created_s,
                processes=len(tenant.clients),
                host_limit_bytes=tenant.host_limit_bytes,
                host_leased_bytes=tenant.host_leased_bytes,
                suspended=tenant.suspended,
                window_s=tenant.window_s,
                uses=tenant.uses,
            )
            for tenant in state.tenants
        ],
        uncovered=state.uncovered,
    )
