# SPDX-License-Identifier: Apache-2.0
"""A kubelet's device manager on real sockets, for tests and `device_plugin.bench`.

What it does is what kubelet 1.20 does (pkg/kubelet/cm/devicemanager) where a plugin can tell: it
wipes its folder when it starts, dials back, reads the list with gRPC's 4 MiB limit, gives slots of
init containers on, asks GetPreferredAllocation before Allocate and PreStartContainer before every
start, keeps Allocate's answers in a checkpoint and uses them again, frees slots in silence, and has
no init container but sidecars in its list.
tests/kube compares it with the real one.
"""

from __future__ import annotations

import enum
import json
import stat
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from device_plugin.kubelet import why
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.proto import deviceplugin_pb2_grpc, podresources_pb2_grpc
from device_plugin.proto import podresources_pb2 as resources

__all__ = ["AdmissionError", "Ask", "Devices", "FakeKubelet", "Stage"]

#: grpc-go's default, which kubelet does not change
RECEIVE_BYTES = 4 << 20
#: what kubelets after 1.20 say besides of a slot and of a container, in fields that our protocol
#: has not: `topology` with two NUMA nodes, `cpu_ids` of two CPUs
_TOPOLOGY = bytes.fromhex("1a06 0a00 0a02 0801")
_CPUS = bytes.fromhex("1a02 0203")
_Reply = TypeVar("_Reply")
PRE_START_S = 30.0


class Stage(enum.Enum):
    """When a container runs."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(frozen=True, slots=True)
class Ask:
    """A container that asks for slots."""

    name: str
    size: int
    stage: Stage = Stage.MAIN


class AdmissionError(Exception):
    """The pod fails at admission, for this reason in its status."""


@dataclass
class Devices:
    """Which slots there are and whose they are. No I/O: what asks the plugin comes in."""

    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)
    #: {(namespace, pod): {container: its slots}}
    held: dict[tuple[str, str], dict[str, frozenset[str]]] = field(default_factory=dict)

    def free(self) -> set[str]:
        """Healthy slots that nobody has."""
        taken = set[str]()
        for containers in self.held.values():
            taken.update(*containers.values())
        return self.healthy - taken

    def choose(
        self,
        ask: Ask,
        reusable: set[str],
        prefer: Callable[[list[str], list[str], int], list[str]],
    ) -> frozenset[str]:
        """The slots a container gets.

        Args:
            ask: its name and how many.
            reusable: an init container's, that come first.
            prefer: (available, must include, size) -> the plugin's advice.

        Raises:
            AdmissionError: there are not so many.
        """
        got = set(sorted(reusable)[: ask.size])
        if len(got) == ask.size:
            return frozenset(got)
        free = self.free() - got
        if len(free) < ask.size - len(got):
            raise AdmissionError(f"requested: {ask.size}, available: {len(free)}")
        advised = prefer(sorted(free | got), sorted(got), ask.size)
        for name in (*advised, *sorted(free)):
            if len(got) == ask.size:
                break
            if name in free or name in got:
                got.add(name)
        return frozenset(got)


class FakeKubelet(
    deviceplugin_pb2_grpc.RegistrationServicer, podresources_pb2_grpc.PodResourcesListerServicer
):
    """One node's kubelet, for one resource."""

    def __init__(self, folder: Path, resource: str = "harp.dev/gpu-share") -> None:
        self.folder = folder
        self.resource = resource
        self.devices = Devices()
        self.registrations = 0
        #: set when a list came from the plugin registered last
        self.listed = threading.Event()
        #: bytes of the last list
        self.list_bytes = 0
        self.refuses = False
        #: whether its list names each slot by itself, once for each NUMA node, and says more of it
        self.newer = False
        self._up = False
        #: whether its checkpoint follows every change; as often as pods come that costs more than
        #: they do
        self.saves = True
        #: {call: seconds that each took}
        self.took_s: dict[str, list[float]] = {}
        self._lock = threading.RLock()
        #: {(namespace, pod, container): Allocate's answer}
        self._answers: dict[tuple[str, str, str], pb.ContainerAllocateResponse] = {}
        #: init containers: in no list
        self._unlisted: set[tuple[str, str, str]] = set()
        self._servers: list[grpc.Server] = []
        self._channel: grpc.Channel | None = None
        self._stub: deviceplugin_pb2_grpc.DevicePluginStub | None = None
        self._options = pb.DevicePluginOptions()

    def start(self) -> None:
        """Come up: wipe the folder, read the checkpoint, serve."""
        plugins, pods = self.folder / "device-plugins", self.folder / "pod-resources"
        for folder in (plugins, pods):
            folder.mkdir(parents=True, exist_ok=True)
        for path in plugins.iterdir():
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
        (pods / "kubelet.sock").unlink(missing_ok=True)
        self.devices = Devices()
        self._load()
        self._up = True
        self._serve(
            plugins / "kubelet.sock",
            lambda s: deviceplugin_pb2_grpc.add_RegistrationServicer_to_server(self, s),
        )
        self._serve(
            pods / "kubelet.sock",
            lambda s: podresources_pb2_grpc.add_PodResourcesListerServicer_to_server(self, s),
        )

    def stop(self) -> None:
        """Die. Its sockets stay where they are, as a killed kubelet's do."""
        with self._lock:
            self._up = False  # a plugin that registers anew at once finds nobody
        self._forget()
        for server in self._servers:
            server.stop(None).wait()
        self._servers.clear()

    def drop(self) -> None:
        """Forget the plugin, as after a list that is too long; its sockets stay."""
        self._forget()

    def admit(self, namespace: str, pod: str, *asks: Ask) -> None:
        """Admit a pod: slots for all its containers, or none.

        Raises:
            AdmissionError: as the pod's status would say.
        """
        with self._lock:
            key = (namespace, pod)
            held = self.devices.held.setdefault(key, {})
            reusable = set[str]()
            try:
                for ask in asks:
                    if not ask.size:
                        continue
                    ids = self.devices.choose(ask, reusable, self._prefer)
                    held[ask.name] = ids
                    if ask.stage is Stage.INIT:
                        self._unlisted.add((*key, ask.name))
                    reusable = reusable | ids if ask.stage is Stage.INIT else reusable - ids
                    self._answers[(*key, ask.name)] = self._allocate(ids)
            except AdmissionError:
                self.remove(namespace, pod)
                raise
            self._save()

    def begin(self, namespace: str, pod: str, container: str) -> pb.ContainerAllocateResponse:
        """Start a container, for the first time or again: what its runtime is told.

        Raises:
            AdmissionError: PreStartContainer failed; kubelet would try again later.
        """
        with self._lock:
            ids = self.devices.held[namespace, pod][container]
            answer = self._answers[namespace, pod, container]
            stub, options = self._stub, self._options
        if options.pre_start_required:
            if stub is None:
                raise AdmissionError("the plugin is not registered")
            request = pb.PreStartContainerRequest(devices_ids=sorted(ids))
            try:
                self._timed("start", lambda: stub.PreStartContainer(request, timeout=PRE_START_S))
            except grpc.RpcError as error:
                raise AdmissionError(why(error)) from error
        return answer

    def remove(self, namespace: str, pod: str) -> None:
        """A pod is gone: its slots are free. No plugin is told."""
        with self._lock:
            for container in self.devices.held.pop((namespace, pod), {}):
                self._answers.pop((namespace, pod, container), None)
                self._unlisted.discard((namespace, pod, container))
            self._save()

    def Register(self, request: pb.RegisterRequest, context: grpc.ServicerContext) -> pb.Empty:  # noqa: N802
        """Take a plugin, in place of the one before."""
        if self.refuses or request.version != "v1beta1" or request.resource_name != self.resource:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self._forget()
        path = self.folder / "device-plugins" / request.endpoint
        channel = grpc.insecure_channel(
            f"unix:{path}",
            options=(
                ("grpc.max_receive_message_length", RECEIVE_BYTES),
                ("grpc.use_local_subchannel_pool", 1),  # a socket of the same name is another one
            ),
        )
        stub = deviceplugin_pb2_grpc.DevicePluginStub(channel)
        with self._lock:
            up = self._up
            if up:
                self._channel, self._stub, self._options = channel, stub, request.options
                self.registrations += 1
        if not up:
            channel.close()
            context.abort(grpc.StatusCode.UNAVAILABLE, "it ends")
        threading.Thread(target=self._listen, args=(stub,), daemon=True).start()
        return pb.Empty()

    def List(  # noqa: N802
        self, request: resources.ListPodResourcesRequest, context: grpc.ServicerContext
    ) -> resources.ListPodResourcesResponse:
        """Who has what."""
        del request, context
        with self._lock:
            held = {
                key: {n: ids for n, ids in containers.items() if (*key, n) not in self._unlisted}
                for key, containers in self.devices.held.items()
            }
        return resources.ListPodResourcesResponse(
            pod_resources=[
                resources.PodResources(
                    namespace=namespace, name=pod, containers=self._containers(containers)
                )
                for (namespace, pod), containers in held.items()
            ]
        )

    def _containers(
        self, containers: Mapping[str, frozenset[str]]
    ) -> Iterator[resources.ContainerResources]:
        for name, ids in containers.items():
            if self.newer:
                one = resources.ContainerResources(name=name, devices=self._each_apart(ids))
                yield resources.ContainerResources.FromString(one.SerializeToString() + _CPUS)
                continue
            devices = resources.ContainerDevices(resource_name=self.resource, device_ids=ids)
            yield resources.ContainerResources(name=name, devices=[devices])

    def _each_apart(self, ids: frozenset[str]) -> Iterator[resources.ContainerDevices]:
        for slot in sorted(ids):
            one = resources.ContainerDevices(resource_name=self.resource, device_ids=[slot])
            for _ in range(2):
                yield resources.ContainerDevices.FromString(one.SerializeToString() + _TOPOLOGY)

    def _listen(self, stub: deviceplugin_pb2_grpc.DevicePluginStub) -> None:
        try:
            for reply in stub.ListAndWatch(pb.Empty(), wait_for_ready=True):
                with self._lock:
                    if self._stub is not stub:
                        return
                    by_health = {True: set[str](), False: set[str]()}
                    for device in reply.devices:
                        by_health[device.health == "Healthy"].add(device.ID)
                    self.devices.healthy = by_health[True]
                    self.devices.unhealthy = by_health[False]
                    self.list_bytes = reply.ByteSize()
                    self.listed.set()
        except (grpc.RpcError, ValueError):  # ValueError: our channel was closed
            pass
        with self._lock:
            if self._stub is stub:  # the plugin is gone: none of its slots can be had
                self.devices.unhealthy |= self.devices.healthy
                self.devices.healthy = set()
                self.listed.clear()

    def _prefer(self, available: list[str], must: list[str], size: int) -> list[str]:
        stub = self._stub
        if stub is None or not self._options.get_preferred_allocation_available:
            return []
        one = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must, allocation_size=size
        )
        request = pb.PreferredAllocationRequest(container_requests=[one])
        try:
            reply = self._timed("prefer", lambda: stub.GetPreferredAllocation(request))
        except grpc.RpcError as error:
            raise AdmissionError(why(error)) from error
        return list(reply.container_responses[0].deviceIDs)

    def _allocate(self, ids: frozenset[str]) -> pb.ContainerAllocateResponse:
        stub = self._stub
        if stub is None:
            raise AdmissionError("the plugin is not registered")
        one = pb.ContainerAllocateRequest(devices_ids=ids)
        request = pb.AllocateRequest(container_requests=[one])
        try:
            reply = self._timed("allocate", lambda: stub.Allocate(request))
        except grpc.RpcError as error:
            raise AdmissionError(why(error)) from error
        return reply.container_responses[0]

    def _timed(self, call: str, work: Callable[[], _Reply]) -> _Reply:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.took_s.setdefault(call, []).append(time.perf_counter() - began)

    def _serve(self, path: Path, add: Callable[[grpc.Server], Any]) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        add(server)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        self._servers.append(server)

    def _forget(self) -> None:
        with self._lock:
            channel, self._channel, self._stub = self._channel, None, None
            self.devices.unhealthy |= self.devices.healthy
            self.devices.healthy = set()
            self.listed.clear()
        if channel is not None:
            channel.close()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "device-plugins" / "kubelet_internal_checkpoint"

    def _save(self) -> None:
        if not self.saves:
            return
        rows = [
            [
                *key,
                name,
                sorted(ids),
                b64encode(answer.SerializeToString()).decode(),
                (*key, name) in self._unlisted,
            ]
            for key, containers in self.devices.held.items()
            for name, ids in containers.items()
            if (answer := self._answers.get((*key, name))) is not None
        ]
        self._checkpoint.write_text(json.dumps(rows))

    def _load(self) -> None:
        if not self._checkpoint.exists():
            return
        self._answers.clear()
        self._unlisted.clear()
        for namespace, pod, name, ids, answer, unlisted in json.loads(self._checkpoint.read_text()):
            self.devices.held.setdefault((namespace, pod), {})[name] = frozenset(ids)
            self._answers[namespace, pod, name] = pb.ContainerAllocateResponse.FromString(
                b64decode(answer)
            )
            if unlisted:
                self._unlisted.add((namespace, pod, name))
