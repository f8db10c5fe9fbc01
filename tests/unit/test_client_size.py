# SPDX-License-Identifier: Apache-2.0
"""A client takes answers that are longer than gRPC's own limit of 4 MiB."""

from __future__ import annotations

import tempfile
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from harp.api.v1 import control_pb2 as pb
from harp.api.v1 import control_pb2_grpc
from harp.client import Client
from harp.rundir import RunDir

LONG = 6 << 20


class _Harpd(control_pb2_grpc.ControlServicer):
    def GetMetrics(self, request: pb.GetMetricsRequest, _context: Any) -> pb.GetMetricsReply:
        return pb.GetMetricsReply(text=request.accept * LONG)


def test_metrics_of_many_tenants_are_more_than_4_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "_ask", lambda *_: {"token": "t"})
    with tempfile.TemporaryDirectory(prefix="hc-") as folder:
        run_dir = RunDir(Path(folder))
        server = grpc.server(futures.ThreadPoolExecutor(1))
        control_pb2_grpc.add_ControlServicer_to_server(_Harpd(), server)
        server.add_insecure_port(f"unix:{run_dir.control}")
        server.start()
        try:
            with Client(run_dir) as client:
                assert client.metrics("x") == "x" * LONG
        finally:
            server.stop(None).wait()
