# SPDX-License-Identifier: Apache-2.0
"""harpd's web page: what it is told, and for how long it is served."""

from __future__ import annotations

import asyncio
import socket
import time

from harp import __version__
from harp.api.v1 import control_pb2 as pb
from harp.daemon.answers import Answers, uncovered
from harp.daemon.book import Book
from harp.daemon.harpd import Harpd
from harp.daemon.pools import Pools
from harp.metrics import keep
from harp.web import Door, Feed, Site

__all__ = ["serve_web"]


async def serve_web(door: Door, book: Book, harpd: Harpd, pools: Pools) -> None:
    """Serve it for ever, and look once a second for it.

    It tells what GetState tells to every user of the machine, and of estimates what GetMetrics
    does: sums over all jobs.
    """
    answers = Answers(book, harpd)

    async def look() -> pb.GetStateReply:
        picture = await book.look()
        return pb.GetStateReply(
            devices=[answers.device(d, picture) for d in book.devices.values()],
            tenants=[answers.tenant(t, picture) for t in book.tenants.values()],
            uncovered=[uncovered(u) for u in harpd.evaders.uncovered.values()],
            now_s=time.time(),
        )

    feed = Feed(look, pools.seen, {"version": __version__, "node": socket.gethostname()})
    site = Site(feed, door)
    events = ("web_served", "web_not_served")
    async with asyncio.TaskGroup() as group:
        group.create_task(feed.keep())
        group.create_task(keep(site.server(), door.host, door.port, "daemon.web", events=events))
