# SPDX-License-Identifier: Apache-2.0
"""A tenant of another user that holds a lease and comes back whenever its arbiter does.

argv: uid, name. Says "ready" when it holds four granules, and "back" each time it has adopted them.
Everything is imported before the uid is changed: see as_user.py.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import grpc._channel  # noqa: F401 - see as_user.py

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.lease_wire import GRANULE_BYTES, MSG_BYTES, Kind, Msg, Op

HELD = 4 * GRANULE_BYTES


def serve(grant: Path, *, again: bool) -> None:
    """One connection, to its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(grant / "arbiter.sock"))
        sock.send(Msg(op=Op.HELLO, a=Kind.NULL, b=int(again), pid=os.getpid(), text="s").pack())
        word = Op.ADOPT_MEM if again else Op.LEASE_MEM
        known = False
        while datagram := sock.recv(MSG_BYTES):
            said = Msg.unpack(datagram)
            if said.op == Op.DEVICE and not known:
                known = True  # it is said again when a harpd comes
                sock.send(Msg(op=word, seq=1, dev=said.dev, amount_bytes=HELD).pack())
                sock.send(Msg(op=Op.MEM_INFO, seq=2, dev=said.dev).pack())
            if said.op == Op.MEM_STATE:
                assert said.leased_bytes == HELD, said
                print("back" if again else "ready", flush=True)


def main() -> None:
    """Make the tenant, then hold."""
    uid, name = int(sys.argv[1]), sys.argv[2]
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / name
    folder.mkdir(mode=0o700)
    with (
        Client.connect(os.environ) as client,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
    ):
        listening.bind(str(folder / "arbiter.sock"))
        listening.listen()
        request = pb.CreateTenantRequest(
            name=name, root_pid=os.getpid(), program=name, grant_dir=str(folder)
        )
        request.ticket = client.deposit(listening)
        client.create(request)
    again = False
    while True:
        try:
            serve(folder, again=again)
            again = True
        except OSError:
            time.sleep(0.02)


main()
