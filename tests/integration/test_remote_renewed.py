# SPDX-License-Identifier: Apache-2.0
"""A pool whose certificate is renewed in its place, as a Secret is: nobody is restarted."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path

import grpc
import pytest
from link_session import children
from machine import wait_for
from serve_world import MIB, Client, Remote, exe, serving

from harp.remote import authority
from harp.remote.certificate import Kind
from harp.remote.renewing import LOOK_S

DAY = dt.timedelta(days=1)
#: what the first certificate is good for: to begin with, and for a program to run
GOOD_S = 40.0
PROGRAM = "remote_program.py"


def connected(node: Remote, folder: Path) -> Client:
    """A client with connections of its own."""
    pem = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    channel = grpc.secure_channel(node.endpoint, grpc.ssl_channel_credentials(*pem))
    files = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    return node.client(channel, **{name: str(folder / file) for name, file in files.items()})


def put(source: Path, folder: Path) -> None:
    """As a Secret's files are renewed."""
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (fresh := folder / f".{name}").write_bytes((source / name).read_bytes())
        fresh.chmod(0o600)
        fresh.replace(folder / name)


def link(node: Remote) -> int:
    """The data side's process."""
    (pid,) = (pid for pid in children(node.process.pid) if exe(pid) == "harp-link")
    return pid


@pytest.mark.slow
def test_leases_and_calls_go_on_after_the_end_of_the_certificate_it_began_with(
    native_dir: Path, tmp_path: Path
) -> None:
    now = dt.datetime.now(dt.UTC)
    authority.init(tmp_path, now - 2 * DAY)
    over_s, good = time.monotonic() + GOOD_S, dt.timedelta(seconds=GOOD_S)
    authority.issue(tmp_path, Kind.NODE, "n1", hosts=["127.0.0.1"], now=now - DAY + good, days=1)
    authority.issue(tmp_path, Kind.NODE, "next", hosts=["127.0.0.1"], now=now)
    authority.issue(tmp_path, Kind.CLIENT, "ann", hosts=[], now=now)
    folder = tmp_path / "node-n1"
    with serving(native_dir, "--dir", str(folder), "--listen", "127.0.0.1:0") as node:
        ann = connected(node, tmp_path / "client-ann")
        lease = ann.lease(mem_limit_bytes=256 * MIB, ttl_s=60)
        with ann.renewing(lease):
            held = ann.holder(lease, 64)
            data = link(node)
            put(tmp_path / "node-next", folder)
            wait_for(lambda: node.events("certificate_renewed"), "it is seen", 2 * LOOK_S)
            time.sleep(max(0.0, over_s - time.monotonic()) + 1)
            late = connected(node, tmp_path / "client-ann")
            said = late.run(late.lease(mem_limit_bytes=256 * MIB), PROGRAM, "add", "1000")
            assert json.loads(said)["right"], node.log.read_text()
            assert link(node) == data, "the same process, at the same port"
            assert held.poll() is None, "and what it serves goes on"
        ann.release(lease)
