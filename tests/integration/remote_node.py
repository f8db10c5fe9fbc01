# SPDX-License-Identifier: Apache-2.0
"""A node as its clients see it: remote.proto by hand, a real harp-link, workers, the software GPU.

What harp/remote/service.py does well, this one can be told to do badly.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import grpc
from link_session import Far

from harp.api.status import code_of, trailers_of
from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import HarpError, NodeDraining, QuotaExceeded, TableMismatch, UnknownLease
from harp.remote.table import own_table

__all__ = ["FakeNode", "fake_node"]

#: of most tests: so long that no stall of the machine loses a lease
TTL_S = 60.0


class FakeNode(remote_pb2_grpc.RemoteServicer):
    """Its state may be written by tests at any time."""

    def __init__(self, far: Far, folder: Path, name: str) -> None:
        self.far, self.folder, self.name = far, folder, name
        self.endpoint = ""
        self.most = 16
        self.ttl_s = TTL_S
        self.table = own_table()
        self.full = False
        self.draining = False
        self.silent = False
        self.away = False
        self.leases: dict[str, pb.LeaseRequest] = {}
        self.sessions: set[str] = set()
        self.said: list[str] = []
        self.metadata: list[str] = []

    def Lease(self, request: pb.LeaseRequest, context: grpc.ServicerContext) -> pb.LeaseReply:
        self.said.append("lease")
        self.metadata = [key for key, _ in context.invocation_metadata()]
        if self.full:
            _abort(context, QuotaExceeded(f"{self.name} has nothing left", "ask for less"))
        if self.draining:
            _abort(context, NodeDraining(f"{self.name} is being drained"))
        lease_id = secrets.token_hex(8)
        self.leases[lease_id] = request
        device = pb.LeasedDevice(
            uuid="GPU-0", name="HARP Software GPU", software=True,
            mem_limit_bytes=request.mem_limit_bytes, share_ppm=request.share_ppm,
        )  # fmt: skip
        return pb.LeaseReply(
            lease_id=lease_id, token="t", ttl_s=self.ttl_s, endpoint=self.endpoint,
            devices=[device], table=self.table,
        )  # fmt: skip

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RenewReply:
        self.said.append("renew")
        while self.silent and context.is_active():
            time.sleep(0.05)
        if self.away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self._known(request.lease_id, context)
        state = pb.NODE_STATE_DRAINING if self.draining else pb.NODE_STATE_READY
        return pb.RenewReply(ttl_s=self.ttl_s, state=state)

    def Release(self, request: pb.ReleaseRequest, context: grpc.ServicerContext) -> pb.ReleaseReply:
        self.said.append("release")
        self._known(request.lease_id, context)
        self.lose()
        return pb.ReleaseReply()

    def Attach(self, request: pb.AttachRequest, context: grpc.ServicerContext) -> pb.AttachReply:
        self.said.append("attach")
        self._known(request.lease_id, context)
        if request.table.hash != self.table.hash:
            _abort(context, TableMismatch("another table"))
        if len(self.sessions) >= self.most:
            _abort(
                context, QuotaExceeded(f"the lease has {self.most} sessions", "detach one first")
            )
        session_id, token = secrets.token_hex(8), secrets.token_urlsafe(32)
        (self.folder / session_id).write_text(f"{token}\n")
        self.sessions.add(session_id)
        return pb.AttachReply(session_id=session_id, token=token, endpoint=self.far.address)

    def Detach(self, request: pb.DetachRequest, _context: grpc.ServicerContext) -> pb.DetachReply:
        self.said.append("detach")
        self._end(request.session_id)
        return pb.DetachReply()

    def Watch(
        self, _request: pb.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchReply]:
        while context.is_active():
            device = pb.NodeDevice(uuid="GPU-0", free_bytes=1 << 34, free_ppm=1_000_000)
            yield pb.WatchReply(
                nodes=[
                    pb.Node(
                        node_id=self.name,
                        endpoint=self.endpoint,
                        state=pb.NODE_STATE_DRAINING if self.draining else pb.NODE_STATE_READY,
                        devices=[device],
                        table=self.table,
                    )
                ]
            )
            time.sleep(0.2)

    def lose(self) -> None:
        """All leases are over, as if they had run out."""
        self.leases.clear()
        for session_id in list(self.sessions):
            self._end(session_id)

    def _end(self, session_id: str) -> None:
        self.sessions.discard(session_id)
        (self.folder / session_id).unlink(missing_ok=True)

    def _known(self, lease_id: str, context: grpc.ServicerContext) -> None:
        if lease_id not in self.leases:
            _abort(context, UnknownLease(f"there is no lease {lease_id}", "take another"))


def _abort(context: grpc.ServicerContext, error: HarpError) -> NoReturn:
    context.set_trailing_metadata(trailers_of(error))
    context.abort(code_of(error), error.message)
    raise AssertionError("abort() raises")


@contextlib.contextmanager
def fake_node(
    native: Path,
    folder: Path,
    env: Mapping[str, str],
    *far_options: str,
    name: str = "n1",
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[FakeNode]:
    """One on loopback, plain unless there are credentials."""
    place = folder / f"node-of-{name}"
    sessions = place / "sessions"
    sessions.mkdir(parents=True)
    threads = ThreadPoolExecutor(16)
    server = grpc.server(threads)
    with contextlib.closing(Far(native, place, env, *far_options, sessions=sessions)) as far:
        node = FakeNode(far, sessions, name)
        remote_pb2_grpc.add_RemoteServicer_to_server(node, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        node.endpoint = f"127.0.0.1:{port}"
        server.start()
        try:
            yield node
        finally:
            stopped: threading.Event = server.stop(None)
            stopped.wait()
            threads.shutdown()
