# SPDX-License-Identifier: Apache-2.0
"""Acts as another user towards a daemon and another one's tenant: says what was possible.

argv: uid, the other tenant's name, its grant folder, its pid. The interpreter and the package may
lie in folders that user cannot enter, so everything is imported before the uid is changed and no
program is started afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc._channel  # noqa: F401 - see above

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.errors import HarpError
from harp.lease_wire import Msg, Op


def outcome(attempt: Callable[[], object]) -> str:
    """What an attempt ended in: "done", or the error's name."""
    try:
        attempt()
    except (HarpError, OSError) as error:
        return type(error).__name__
    return "done"


def join(grant: str) -> None:
    """Be the other's client."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(f"{grant}/arbiter.sock")


def admin(run_dir: Path) -> None:
    """Be harpd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(str(run_dir / "admin.sock"))


def of_a_child(client: Client) -> str:
    """A tenant whose first process is a child of ours, as `harp run --mem auto` makes it."""
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        return outcome(lambda: own_tenant(client, "child", 0, 0, pid=child))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def own_tenant(
    client: Client, name: str, share_ppm: int, mem_bytes: int, pid: int = 0
) -> pb.Tenant:
    """A tenant of ours, made as `harp run` makes it; its only process is this one, or `pid`."""
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / f"g-{name}"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(folder / "arbiter.sock"))
        listening.listen()
        ticket = client.deposit(listening)
    return client.create(
        pb.CreateTenantRequest(
            name=name,
            root_pid=pid or os.getpid(),
            grant_dir=str(folder),
            ticket=ticket,
            program=name,
            share_ppm=share_ppm,
            mem_limit_bytes=mem_bytes,
        )
    ).tenant


def lease(grant: Path, size_bytes: int) -> str:
    """Lease memory through our own grant as a null accelerator; says what the arbiter answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect(str(grant / "arbiter.sock"))
        sock.send(Msg(op=Op.HELLO, a=2, pid=os.getpid(), text="null").pack())
        welcome = Msg.unpack(sock.recv(256))
        device = Msg.unpack(sock.recv(256))
        assert (welcome.op, device.op) == (Op.WELCOME, Op.DEVICE)
        sock.send(Msg(op=Op.LEASE_MEM, seq=1, dev=device.dev, amount_bytes=size_bytes).pack())
        while True:
            answer = Msg.unpack(sock.recv(256))
            if answer.seq == 1:
                return Op(answer.op).name


def main() -> None:
    uid, victim, grant, pid = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    with Client.connect(os.environ) as client:
        run_dir = client.run_dir.path
        free = next(d for d in client.state().devices)
        room = free.memory_bytes - free.promised_bytes - free.context_bytes
        found = {
            "sees": sorted(t.name for t in client.state().tenants),
            "join": outcome(lambda: join(grant)),
            "look_into": outcome(lambda: list(Path(grant).iterdir())),
            "admin": outcome(partial(admin, run_dir)),
            "store": outcome(lambda: (run_dir / "harpd.db").open("rb+").close()),
            "unlink": outcome((run_dir / "control.sock").unlink),
            "set": outcome(lambda: client.set(pb.SetTenantRequest(name=victim, mem_limit_bytes=1))),
            "remove": outcome(lambda: client.remove(victim)),
            "stop": outcome(lambda: client.stop(with_arbiter=True)),
            "kill": outcome(lambda: os.kill(pid, signal.SIGKILL)),
            "all_time": outcome(lambda: own_tenant(client, "greedy", 1_000_000, 0)),
            "all_memory": outcome(lambda: own_tenant(client, "huge", 0, room + (4 << 20))),
            "foreign_root": outcome(
                lambda: client.create(
                    pb.CreateTenantRequest(root_pid=pid, ticket=_ticket(client), program="x")
                )
            ),
            "any_uid": _asked_of(client, any_uid=True),
            "held": _asked_of(client, held=True),
            "labels": _asked_of(client, labels={"pod": "a"}),
            "estimate": outcome(lambda: client.estimate(pb.EstimateRequest(tenant=victim))),
            "estimate_owner": outcome(
                lambda: client.estimate(pb.EstimateRequest(owner="ns/Job/a"))
            ),
            "estimate_as": outcome(
                lambda: client.estimate(pb.EstimateRequest(command=["x"], for_uid=0))
            ),
            "runs": len(client.runs(pb.GetRunsRequest()).runs),
            "add_runs": outcome(lambda: client.add_runs([pb.Run(outcome="done")])),
        }
        mine = own_tenant(client, "mine", 100_000, 64 << 20)
        folder = Path(mine.grant_dir)
        found["own_uid"] = mine.uid
        found["own_lease"] = lease(folder, 64 << 20)
        found["own_beyond"] = lease(folder, 66 << 20)
        found["own_set"] = outcome(
            lambda: client.set(pb.SetTenantRequest(name="mine", share_ppm=50_000))
        )
        found["own_remove"] = outcome(lambda: client.remove("mine"))
        found["own_estimate"] = outcome(
            lambda: client.estimate(pb.EstimateRequest(command=["x"], for_uid=uid))
        )
        found["child"] = of_a_child(client)
    print(json.dumps(found))


def _asked_of(client: Client, **what: Any) -> str:
    """Ask for a tenant such as containers have."""
    folder = os.environ["XDG_RUNTIME_DIR"]
    more = {"root_pid": os.getpid(), "grant_dir": folder, "program": "x", **what}
    asked = pb.CreateTenantRequest(ticket=_ticket(client), **more)
    return outcome(lambda: client.create(asked))


def _ticket(client: Client) -> str:
    path = Path(os.environ["XDG_RUNTIME_DIR"]) / "other.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        return client.deposit(listening)


if __name__ == "__main__":
    main()
