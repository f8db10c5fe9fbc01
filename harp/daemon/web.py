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
from harp.procs import user_name
from harp.web import Door, Feed, Site

__all__ = ["Looker", "serve_web"]


class Looker:
    """What GetState answers, for who asks each second: names of users are looked up once."""

    def __init__(self, book: Book, harpd: Harpd) -> None:
        self._book = book
        self._harpd = harpd
        self._answers = Answers(book, harpd)
        #: {uid: login name}; names of those who have tenants now
        self._names: dict[int, str] = {}

    async def __call__(self) -> pb.GetStateReply:
        """What holds now."""
        picture = await self._book.look()
        promises = self._book.promises(picture)
        tenants = self._book.tenants.values()
        uids = {tenant.uid for tenant in tenants}
        self._names = {uid: self._names.get(uid) or user_name(uid) for uid in uids}
        return pb.GetStateReply(
            devices=[
                self._answers.promised(device, picture, promises[uuid])
                for uuid, device in self._book.devices.items()
            ],
            tenants=[self._answers.tenant(t, picture, self._names[t.uid]) for t in tenants],
            uncovered=[uncovered(one) for one in self._harpd.evaders.uncovered.values()],
            now_s=time.time(),
        )


async def serve_web(door: Door, book: Book, harpd: Harpd, pools: Pools) -> None:
    """Serve it for ever, and look for it.

    It tells what GetState tells to every user of the machine, and of estimates what GetMetrics
    does: sums over all jobs.
    """
    look = Looker(book, harpd)
    feed = Feed(look, pools.seen, {"version": __version__, "node": socket.gethostname()})
    site = Site(feed, door)
    events = ("web_served", "web_not_served")
    async with asyncio.TaskGroup() as group:
        group.create_task(feed.keep())
        group.create_task(keep(site.server(), door.host, door.port, "daemon.web", events=events))
