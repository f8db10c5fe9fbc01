# SPDX-License-Identifier: Apache-2.0
"""Acts as a lease's user towards another lease and its node: says what was possible.

argv: JSON: uid; `own`: its grant folder; `pid`, `grant`, `tenant`: of the other one; `mine`: its
own tenant; `secrets`: folders of root's. Imports first, as as_user.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import grpc._channel  # noqa: F401 - see as_user.py
from as_user import outcome

from harp.api.v1 import control_pb2 as pb
from harp.client import Client


def connects(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(str(path))


def makes(client: Client, own: Path, uid: int = 0) -> None:
    """A tenant, and not for the sake of its place in the ledger."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        path = own / f"s{uid}"
        listening.bind(str(path))
        listening.listen()
        ticket = client.deposit(listening)
        path.unlink()
    client.create(
        pb.CreateTenantRequest(
            name="more", root_pid=os.getpid(), ticket=ticket, program="x", for_uid=uid
        )
    )


def main() -> None:
    told = json.loads(sys.argv[1])
    own, grant, proc = Path(told["own"]), Path(told["grant"]), Path(f"/proc/{told['pid']}")
    os.setgroups([])
    os.setgid(told["uid"])
    os.setuid(told["uid"])
    with Client.connect(os.environ) as client:
        found = {
            "own": outcome(lambda: list((own / "images").iterdir())),
            "own_socket": outcome(partial(connects, own / "arbiter.sock")),
            "grant": outcome(lambda: list(grant.iterdir())),
            "images": outcome(lambda: list((grant / "images").iterdir())),
            "socket": outcome(partial(connects, grant / "arbiter.sock")),
            "names": outcome(lambda: list(grant.parent.iterdir())),
            "library": outcome((Path(told["shim"]) / "libcuda.so.1").touch),
            "mem": outcome(lambda: (proc / "mem").open("rb").close()),
            "environ": outcome((proc / "environ").read_bytes),
            "kill": outcome(lambda: os.kill(told["pid"], signal.SIGKILL)),
            "tokens": [outcome(lambda p=p: list(Path(p).iterdir())) for p in told["secrets"]],
            "lift_own": outcome(
                lambda: client.set(pb.SetTenantRequest(name=told["mine"], mem_limit_bytes=0))
            ),
            "suspend_other": outcome(
                lambda: client.suspend(pb.SuspendTenantRequest(name=told["tenant"]))
            ),
            "more": outcome(partial(makes, client, own)),
            "for_other": outcome(partial(makes, client, own, told["uid"] + 1)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
