# SPDX-License-Identifier: Apache-2.0
"""What kubelet calls, on our socket."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import NoReturn, Protocol

import grpc
import structlog

from device_plugin.allocator import Chooser, Refused, check, limits, prefer
from device_plugin.answer import Answer
from device_plugin.book import Grant, grant_id
from device_plugin.kubelet import OPTIONS
from device_plugin.metrics import Counts
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.proto import deviceplugin_pb2_grpc
from device_plugin.slots import Slots
from harp.api.status import code_of
from harp.errors import DaemonError, HarpError
from harp.metrics import families

__all__ = ["Listing", "Served", "Service", "Starter", "serve"]

_log = structlog.get_logger(__name__)
#: the most pods a node has, whose starts may all wait for harpd at once, and then some: nothing may
#: hold up Allocate. Threads are made as they are needed.
_THREADS = 288
_WAKE_S = 1.0


class Starter(Protocol):
    """Gives a container its grant (device_plugin.starts)."""

    def start(self, ids: Sequence[str], waited: Callable[[], bool]) -> Grant:
        """When it returns the container may run; `waited`: whether kubelet waits still.

        Raises:
            HarpError: not now.
        """
        ...


class Listing:
    """The list that kubelet gets: all slots, with their GPUs' health."""

    def __init__(self, slots: Slots, *, topology: bool) -> None:
        self._slots = slots
        self._topology = topology
        self._changed = threading.Condition()
        #: {uuid: why it is not healthy}
        self._ill: dict[str, str] = {}
        self._version = 0

    def set_ill(self, ill: Mapping[str, str]) -> None:
        """Say which GPUs are not healthy, and why; streams send the list again if that is new."""
        with self._changed:
            if ill == self._ill:
                return
            for uuid in sorted(set(ill) ^ set(self._ill)):
                _log.warning("gpu_health", gpu=uuid, healthy=uuid not in ill, why=ill.get(uuid, ""))
            self._ill = dict(ill)
            self._version += 1
            self._changed.notify_all()

    @property
    def ill(self) -> frozenset[str]:
        """UUIDs of the GPUs that are not healthy."""
        with self._changed:
            return frozenset(self._ill)

    def wake(self) -> None:
        """Let streams see that they have ended."""
        with self._changed:
            self._changed.notify_all()

    def follow(self, alive: Callable[[], bool]) -> Iterator[pb.ListAndWatchResponse]:
        """The list, again after every change, until `alive` says no."""
        sent = -1
        while alive():
            with self._changed:
                if self._version == sent:
                    self._changed.wait(_WAKE_S)
                    continue
                sent, ill = self._version, dict(self._ill)
            yield self._message(ill)

    def _message(self, ill: Mapping[str, str]) -> pb.ListAndWatchResponse:
        message = pb.ListAndWatchResponse()
        for place, gpu in enumerate(self._slots.gpus):
            health = "Unhealthy" if gpu.uuid in ill else "Healthy"
            near = None
            if self._topology and gpu.numa >= 0:
                near = pb.TopologyInfo(nodes=[pb.NUMANode(ID=gpu.numa)])
            message.devices.extend(
                pb.Device(ID=name, health=health, topology=near) for name in self._slots.ids(place)
            )
        return message


class Service(deviceplugin_pb2_grpc.DevicePluginServicer):
    """The five calls.

    Args:
        slots: of this node.
        listing: their health.
        chooser: of GPUs.
        answer: (UUIDs, grant id) -> what the container gets.
        starter: of containers.
        hint: size -> GPUs that the container was promised, as places.
        counts: what is counted of the calls.
    """

    def __init__(
        self,
        slots: Slots,
        listing: Listing,
        chooser: Chooser,
        *,
        answer: Callable[[Sequence[str], str], Answer],
        starter: Starter,
        hint: Callable[[int], Collection[int]] = lambda _: (),
        counts: Counts | None = None,
    ) -> None:
        self._slots = slots
        self._listing = listing
        self._chooser = chooser
        self._answer = answer
        self._starter = starter
        self._hint = hint
        #: most free slots of one GPU when kubelet last asked what to choose; it asks right before
        #: Allocate and admits one pod at a time, so a refusal can say what would have fitted
        self._largest_free: int | None = None
        self._counts = counts or Counts()
        #: told when the first stream begins and when the last one ends
        self.streams: Callable[[bool], None] = lambda _: None
        self._streams = 0
        self._lock = threading.Lock()

    def GetDevicePluginOptions(  # noqa: N802
        self, request: pb.Empty, context: grpc.ServicerContext
    ) -> pb.DevicePluginOptions:
        """What we want to be asked."""
        del request, context
        return OPTIONS

    def ListAndWatch(  # noqa: N802
        self, request: pb.Empty, context: grpc.ServicerContext
    ) -> Iterator[pb.ListAndWatchResponse]:
        """The list, as long as kubelet listens."""
        del request
        self._count(1)
        # Called at once if it has ended already.
        if not context.add_callback(self._listing.wake):
            self._count(-1)
            return
        try:
            yield from self._listing.follow(context.is_active)
        finally:
            self._count(-1)

    def GetPreferredAllocation(  # noqa: N802
        self, request: pb.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> pb.PreferredAllocationResponse:
        """Our advice; none where no share is to be had: then Allocate will say why."""
        del context
        reply = pb.PreferredAllocationResponse()
        for one in request.container_requests:
            available, must = one.available_deviceIDs, one.must_include_deviceIDs
            size = one.allocation_size
            # What an init container had is given on: there is nothing to choose.
            hint = () if must else self._hint(size)
            ids = prefer(self._slots, available, must, size, self._chooser, hint=hint)
            self._largest_free = _largest_free(self._slots, available)
            reply.container_responses.add(deviceIDs=ids)
            self._counts.add(families.PLUGIN_PREFERRED)
        return reply

    def Allocate(  # noqa: N802
        self, request: pb.AllocateRequest, context: grpc.ServicerContext
    ) -> pb.AllocateResponse:
        """What the containers get, or why they get nothing."""
        with self._counts.timing(families.PLUGIN_ALLOCATE):
            return self._allocate(request, context)

    def PreStartContainer(  # noqa: N802
        self, request: pb.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> pb.PreStartContainerResponse:
        """A container is about to start."""
        with self._counts.timing(families.PLUGIN_START):
            return self._start(request, context)

    def _allocate(
        self, request: pb.AllocateRequest, context: grpc.ServicerContext
    ) -> pb.AllocateResponse:
        reply = pb.AllocateResponse()
        for one in request.container_requests:
            ids = list(one.devices_ids)
            try:
                reply.container_responses.append(_as_message(self._given(ids)))
            except HarpError as error:
                reason = error.reason.value if isinstance(error, Refused) else type(error).__name__
                self._counts.add(families.PLUGIN_REFUSED, reason)
                _log.warning("allocate_refused", reason=reason, message=error.message)
                _abort(context, error)
            self._counts.add(families.PLUGIN_ALLOCATIONS)
        return reply

    def _given(self, ids: Sequence[str]) -> Answer:
        """What a container with these ids gets; raises HarpError if they are no share."""
        share = check(self._slots, ids, self._largest_free)
        limits(self._slots, share)  # is there memory in it?
        uuids = [self._slots.gpus[gpu].uuid for gpu in share.gpus]
        return self._answer(uuids, grant_id(ids))

    def _start(
        self, request: pb.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> pb.PreStartContainerResponse:
        try:
            self._starter.start(list(request.devices_ids), context.is_active)
        except HarpError as error:
            self._counts.add(families.PLUGIN_START_ERRORS, type(error).__name__)
            _log.warning("start_refused", message=error.message)
            _abort(context, error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like kubelet's
            self._counts.add(families.PLUGIN_START_ERRORS, "broken")
            _log.exception("start_broken")
            _abort(
                context, DaemonError(f"the device plugin failed: {type(error).__name__}: {error}")
            )
        self._counts.add(families.PLUGIN_STARTS)
        return pb.PreStartContainerResponse()

    def _count(self, by: int) -> None:
        with self._lock:
            before, self._streams = self._streams, self._streams + by
            if (before > 0) != (self._streams > 0):
                self.streams(self._streams > 0)


def _largest_free(slots: Slots, available: Sequence[str]) -> int:
    count = Counter(slots.all[name].gpu for name in available if name in slots.all)
    return max(count.values(), default=0)


def _as_message(given: Answer) -> pb.ContainerAllocateResponse:
    return pb.ContainerAllocateResponse(
        envs=given.env,
        mounts=[
            pb.Mount(container_path=m.inside, host_path=m.host, read_only=m.read_only)
            for m in given.mounts
        ],
        devices=[
            pb.DeviceSpec(container_path=path, host_path=path, permissions="rw")
            for path in given.nodes
        ],
    )


def _abort(context: grpc.ServicerContext, error: HarpError) -> NoReturn:
    """End the call; kubelet puts the words into the pod's status."""
    context.abort(code_of(error), f"{error.message}; {error.hint}" if error.hint else error.message)
    raise AssertionError("abort() raises")


class Served:
    """A server on its socket."""

    def __init__(self, server: grpc.Server, service: Service, listing: Listing) -> None:
        self._server = server
        self._service = service
        self._listing = listing

    def stop(self) -> None:
        """End it and its streams; of the end of these nobody is told."""
        self._service.streams = lambda _: None
        stopped = self._server.stop(None)
        self._listing.wake()
        stopped.wait()


def serve(path: Path, service: Service, listing: Listing) -> Served:
    """Serve on a new socket at `path`.

    The server before must have been stopped: gRPC unlinks the path of one that ends, whoever's
    socket lies there by then.

    Raises:
        DaemonError: the socket cannot be made.
    """
    pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="plugin")
    server = grpc.server(pool, options=(("grpc.so_reuseport", 0),))
    deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(service, server)
    try:
        path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{path}")
        path.chmod(0o600)
    except (OSError, RuntimeError) as error:
        server.stop(None)
        raise DaemonError(f"cannot serve on {path}: {error}", "is kubelet's folder mounted?") from (
            error
        )
    server.start()
    return Served(server, service, listing)
