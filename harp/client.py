# SPDX-License-Identifier: Apache-2.0
"""A synchronous client of harpd: what the command line, the device plugin and notebooks use.

with Client.connect(os.environ) as harp:
    for tenant in harp.state().tenants:
        print(tenant.name, tenant.leased_bytes)
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

import grpc

from harp.api.status import from_rpc
from harp.api.v1 import control_pb2 as pb
from harp.api.v1 import control_pb2_grpc
from harp.errors import DaemonError, DaemonUnreachable, Unauthenticated
from harp.rundir import RunDir, find

__all__ = ["Client"]

_TIMEOUT_S = 15.0
#: memory of several processes is copied, some GiB a second
_MOVE_S = 900.0
_AUTH_TIMEOUT_S = 5.0
#: metrics of as many tenants as an arbiter has are several MiB
_MESSAGE_BYTES = 64 << 20
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
]
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class Client:
    """One connection; calls raise the errors of harp/errors.py."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._token = self._ask({"op": "token"})["token"]
        self._channel = grpc.insecure_channel(f"unix:{run_dir.control}", _OPTIONS)
        #: of those who watch()
        self._watches: set[grpc.Channel] = set()
        self._stub = control_pb2_grpc.ControlStub(self._channel)

    @classmethod
    def connect(cls, env: Mapping[str, str]) -> Self:
        """Connect to the daemon that holds for this environment.

        Raises:
            DaemonUnreachable: none runs there.
            RunDirUnsafe: another user could have put it there.
        """
        run_dir = find(env)
        if not run_dir.path.exists():
            raise DaemonUnreachable(f"no harpd runs in {run_dir.path}", "start one: harp daemon")
        run_dir.check()
        return cls(run_dir)

    def close(self) -> None:
        """End the connection, and what is watched."""
        for channel in (*self._watches, self._channel):
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def info(self) -> pb.GetInfoReply:
        """Who and what the daemon is."""
        return self._call(self._stub.GetInfo, pb.GetInfoRequest())

    def state(self) -> pb.GetStateReply:
        """Devices, tenants, clients and uncovered processes."""
        return self._call(self._stub.GetState, pb.GetStateRequest())

    def deposit(self, listening: socket.socket) -> str:
        """Hand in a tenant's listening socket; returns the ticket for create()."""
        return self._ask({"op": "deposit"}, listening)["ticket"]

    def create(self, request: pb.CreateTenantRequest) -> pb.CreateTenantReply:
        """Make a tenant."""
        return self._call(self._stub.CreateTenant, request)

    def set(self, request: pb.SetTenantRequest) -> pb.Tenant:
        """Change a tenant's limits."""
        return self._call(self._stub.SetTenant, request).tenant

    def suspend(self, request: pb.SuspendTenantRequest) -> pb.Tenant:
        """Take a tenant's memory off its devices; as long as that takes."""
        return self._call(self._stub.SuspendTenant, request, _MOVE_S + request.timeout_s).tenant

    def resume(self, request: pb.ResumeTenantRequest) -> pb.Tenant:
        """Bring it back; as long as that takes."""
        return self._call(self._stub.ResumeTenant, request, _MOVE_S).tenant

    def remove(self, name: str) -> None:
        """Take a tenant's grant back."""
        self._call(self._stub.RemoveTenant, pb.RemoveTenantRequest(name=name))

    def metrics(self, accept: str = "") -> str:
        """What Prometheus would be told, in one of its formats (HTTP's Accept)."""
        return self._call(self._stub.GetMetrics, pb.GetMetricsRequest(accept=accept)).text

    def estimate(self, request: pb.EstimateRequest) -> pb.EstimateReply:
        """What a job will need."""
        return self._call(self._stub.Estimate, request)

    def runs(self, request: pb.GetRunsRequest) -> pb.GetRunsReply:
        """A page of the runs that have ended."""
        return self._call(self._stub.GetRuns, request)

    def add_runs(self, runs: Iterable[pb.Run]) -> int:
        """Add runs that another machine kept; how many of them were not there already."""
        return self._call(self._stub.AddRuns, pb.AddRunsRequest(runs=runs)).added

    def watch(self, interval_ms: int = 0) -> Iterator[pb.WatchSamplesReply]:
        """Samples as often as said (10 to 1000 ms; 0: 1000), until harpd is stopped.

        Whoever is slow to take them misses some, and gets what is new. To end it before harpd
        does, close the iterator, or from another thread the client.

        Raises:
            ConfigError: an interval that is out of range.
            QuotaExceeded: too many watch.
            DaemonUnreachable: harpd is gone, and was not stopped.
            DaemonError: it is older than this call: state() says the same, when asked.
        """
        request = pb.WatchSamplesRequest(interval_ms=interval_ms)
        try:
            yield from self._watch(request)
        except Unauthenticated:
            self._token = self._ask({"op": "token"})["token"]
            yield from self._watch(request)

    def stop(self, *, with_arbiter: bool) -> None:
        """End the daemon."""
        self._call(self._stub.Stop, pb.StopRequest(with_arbiter=with_arbiter))

    def _watch(self, request: pb.WatchSamplesRequest) -> Iterator[pb.WatchSamplesReply]:
        # What is read ahead of who takes it is old when it comes to them: as much as 64 KiB.
        options = [*_OPTIONS, ("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)]
        with grpc.insecure_channel(f"unix:{self.run_dir.control}", options) as channel:
            self._watches.add(channel)
            try:
                yield from control_pb2_grpc.ControlStub(channel).Watch(
                    request, metadata=self._metadata()
                )
            except grpc.RpcError as error:
                raise from_rpc(error) from error
            finally:
                self._watches.discard(channel)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"),)

    def _call(
        self, method: Callable[..., _Reply], request: _Request, timeout_s: float = _TIMEOUT_S
    ) -> _Reply:
        try:
            return self._try(method, request, timeout_s)
        except Unauthenticated:
            # The daemon was restarted since; its tokens went with it.
            self._token = self._ask({"op": "token"})["token"]
            return self._try(method, request, timeout_s)

    def _try(self, method: Callable[..., _Reply], request: _Request, timeout_s: float) -> _Reply:
        try:
            return method(
                request,
                timeout=timeout_s,
                metadata=self._metadata(),
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from error

    def _ask(self, question: dict[str, str], passed: socket.socket | None = None) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(_AUTH_TIMEOUT_S)
            try:
                sock.connect(str(self.run_dir.auth))
                fds = [] if passed is None else [passed.fileno()]
                socket.send_fds(sock, [json.dumps(question).encode()], fds)
                reply = sock.recv(4096)
            except OSError as error:
                raise DaemonUnreachable(
                    f"no harpd answers in {self.run_dir.path}: {os.strerror(error.errno or 0)}"
                    if error.errno
                    else f"harpd in {self.run_dir.path} does not answer",
                    "start one: harp daemon",
                ) from error
        if not reply:
            raise DaemonUnreachable(f"harpd in {self.run_dir.path} hung up")
        answer: dict[str, str] = json.loads(reply)
        if "error" in answer:
            raise DaemonError(f"harpd refused: {answer['error']}")
        return answer
