# SPDX-License-Identifier: Apache-2.0
"""Kubelet, as it is asked: registration, and who has which slots."""

from __future__ import annotations

from pathlib import Path

import grpc

from device_plugin.identity import Holding, Owner
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.proto import deviceplugin_pb2_grpc, podresources_pb2_grpc
from device_plugin.proto import podresources_pb2 as resources
from device_plugin.registration import SocketFile
from harp.errors import DaemonUnreachable

__all__ = ["API_VERSION", "CHANNEL", "OPTIONS", "PodResources", "register", "socket_file", "why"]

API_VERSION = "v1beta1"
OPTIONS = pb.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)
#: a kubelet that restarts is back within seconds: no long pauses between tries, and no proxy
CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_REGISTER_S = 2.0
_LIST_S = 5.0


def socket_file(path: Path) -> SocketFile | None:
    """Which file lies there; None: none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return SocketFile(found.st_dev, found.st_ino, found.st_ctime_ns)


def register(socket: Path, endpoint: str, resource: str) -> None:
    """Tell kubelet where we are.

    Raises:
        DaemonUnreachable: it is not there, or refuses.
    """
    request = pb.RegisterRequest(
        version=API_VERSION, endpoint=endpoint, resource_name=resource, options=OPTIONS
    )
    with grpc.insecure_channel(f"unix:{socket}", options=CHANNEL) as channel:
        try:
            deviceplugin_pb2_grpc.RegistrationStub(channel).Register(request, timeout=_REGISTER_S)
        except grpc.RpcError as error:
            raise DaemonUnreachable(f"kubelet does not take our registration: {why(error)}") from (
                error
            )


class PodResources:
    """Kubelet's list of who has what, of one resource."""

    def __init__(self, socket: Path, resource: str, timeout_s: float = _LIST_S) -> None:
        self._resource = resource
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=CHANNEL)
        self._stub = podresources_pb2_grpc.PodResourcesListerStub(self._channel)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def holdings(self) -> list[Holding]:
        """All containers of the node that have some of the resource.

        Raises:
            DaemonUnreachable: kubelet does not answer.
        """
        try:
            reply = self._stub.List(
                resources.ListPodResourcesRequest(), timeout=self._timeout_s, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise DaemonUnreachable(
                f"kubelet does not say who has which slots: {why(error)}",
                "mount its pod-resources folder into the plugin",
            ) from error
        found = []
        for pod in reply.pod_resources:
            for container in pod.containers:
                # Listed apart where they are of several NUMA nodes.
                ids = frozenset(
                    name
                    for devices in container.devices
                    if devices.resource_name == self._resource
                    for name in devices.device_ids
                )
                if ids:
                    found.append(Holding(Owner(pod.namespace, pod.name, container.name), ids))
        return found


def why(error: grpc.RpcError) -> str:
    """What the other side said."""
    details = getattr(error, "details", None)  # the base class has none, what is raised does
    return str(details() if callable(details) else error)
