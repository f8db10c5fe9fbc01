# SPDX-License-Identifier: Apache-2.0
"""A cable that is pulled in the middle of a copy, and put back: the copy goes on."""

from __future__ import annotations

import threading
import time

import pytest
from link_session import until
from test_remote_netem import DEAD_S, HANG_S, Net, base, net

from harp.bench.hosts import Cable

__all__ = ["base"]


def pull_for_a_while(way: Net, log: str, told: list[str]) -> None:
    """Until the near end has noticed; nothing but time tells it."""
    time.sleep(1)
    way.hosts.pull()
    try:
        path = way.at.folder / log
        until("the loss", lambda: "connection broke" in path.read_text(), HANG_S)
        told.append("noticed")
    finally:
        way.hosts.plug()


@pytest.mark.slow
def test_a_copy_goes_on_when_the_cable_is_back(base: dict[str, str]) -> None:
    with net(base, Cable(rate_mbit=100)) as way:
        with (way.at.folder / "sessions" / "bench").open("a") as file:
            file.write(f"resume_s={HANG_S}\n")
        told: list[str] = []
        thread = threading.Thread(target=pull_for_a_while, args=(way, "near.log", told))
        thread.start()
        began_s = time.monotonic()
        try:
            way.run("bulk", 32, 1)  # 3 s of sending; what was applied is what was asked for
        finally:
            thread.join()
        assert told == ["noticed"]
        assert time.monotonic() - began_s > DEAD_S / 2
