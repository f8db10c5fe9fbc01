# SPDX-License-Identifier: Apache-2.0
"""What `harp remote serve` and `harp remote keep` tell over HTTP: certificates, and who is here.

No grpcio here, as in remote_serve.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

from harp.errors import ConfigError
from harp.metrics import (
    REMOTE,
    SERVED,
    TRAFFIC,
    Page,
    RemoteSeen,
    Sample,
    Server,
    TrafficSeen,
    expose,
    remote_samples,
    traffic_samples,
)
from harp.metrics.families import CERTIFICATE_EXPIRY
from harp.metrics.server import Route
from harp.remote.certificate import ends

if TYPE_CHECKING:
    from harp.remote.renewing import Renewing
    from harp.remote.trust import Identity

__all__ = ["certificates", "listening", "renewing"]


def certificates(
    role: str,
    now: Callable[[], Identity | None],
    seen: Callable[[], RemoteSeen] | None = None,
    traffic: Callable[[], TrafficSeen] | None = None,
) -> Route:
    """/metrics of who shows a certificate.

    Args:
        role: "server" or "client".
        now: the one in use; None: none is shown, and there is no series.
        seen: who is here; None: nobody comes here.
        traffic: of who goes elsewhere: what its sessions carry.
    """

    async def page(accept: str) -> Page:
        told = _samples(role, now())
        if traffic is not None:
            told += traffic_samples(traffic())
            return Page(*expose((*REMOTE, *TRAFFIC), told, accept))
        if seen is None:
            return Page(*expose(REMOTE, told, accept))
        told += remote_samples(seen())
        return Page(*expose((*REMOTE, *SERVED), told, accept))

    return page


def _samples(role: str, identity: Identity | None) -> list[Sample]:
    if identity is None:
        return []
    by_role = {role: identity.certificate.ends, "authority": ends(identity.authority_pem)}
    return [
        Sample(CERTIFICATE_EXPIRY, (shown_as,), when.timestamp())
        for shown_as, when in by_role.items()
    ]


@contextlib.asynccontextmanager
async def renewing(
    mine: Renewing | None,
    host: str,
    port: int,
    *,
    look_s: float | None = None,
    seen: Callable[[], RemoteSeen] | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """/metrics of a server meanwhile; yields where.

    Args:
        mine: its certificate, looked at here as often as the server does; None: it has none.
        host: address or name.
        port: 0: any.
        look_s: between two looks; None: the server's.
        seen: who is here.

    Raises:
        ConfigError: the address cannot be had.
    """
    from harp.remote.renewing import LOOK_S, again_and_again  # noqa: PLC0415 - see above

    async def look() -> None:
        if mine is not None:
            mine.look()

    page = certificates("server", lambda: mine.now if mine is not None else None, seen)
    looking = asyncio.create_task(again_and_again(look, period_s=look_s or LOOK_S))
    try:
        async with listening({"/metrics": page}, host, port, "--metrics") as at:
            yield at
    finally:
        looking.cancel()


@contextlib.asynccontextmanager
async def listening(
    routes: Mapping[str, Route], host: str, port: int, option: str
) -> AsyncIterator[tuple[str, int]]:
    """Serve pages meanwhile; yields where.

    Raises:
        ConfigError: the address that `option` named cannot be had.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            at = await stack.enter_async_context(Server(routes).listening(host, port))
        except OSError as error:
            raise ConfigError(
                f"{option} {host}:{port}: {error.strerror}", "another port, or this host's address"
            ) from error
        yield at
