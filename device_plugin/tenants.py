# SPDX-License-Identifier: Apache-2.0
"""Grants as tenants of this node's harpd.

A tenant's socket lies in the grant's folder, which is what the container has mounted: while a
container may run, the folder stays the same folder, and a tenant that is made again gets its socket
in there. harpd may be away or restarted at any moment; what it has promised holds without it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_plugin.book import Cap, Grant
from device_plugin.slots import Gpu
from harp.api.jobs import need_of
from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.errors import ConfigError, DaemonUnreachable, UnknownTenant
from harp.estimator.job import Need
from harp.inject import FROM_DAEMON
from harp.model import DeviceKind, Limits, TenantClass
from harp.rundir import check_socket

__all__ = [
    "HarpdTenants",
    "NodeView",
    "Stray",
    "Tenants",
    "alive",
    "drop_folder",
    "make_folder",
    "tenant_name",
]

_BACKLOG = 128
#: most of a label's value (harp/daemon/owners.py)
_LABEL_CHARS = 253
_SOCKET = "arbiter.sock"
_KEEP = "keep"
_CLASSES = {
    TenantClass.STANDARD: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT: pb.TENANT_CLASS_BEST_EFFORT,
}


@dataclass(frozen=True, slots=True)
class NodeView:
    """What harpd says of this node."""

    kind: DeviceKind
    cuda: Path
    nvml: Path
    gpus: tuple[Gpu, ...]  #: without NUMA nodes, which it does not know


@dataclass(frozen=True, slots=True)
class Stray:
    """A tenant, seen from its folder."""

    name: str
    busy: bool  #: has processes that use a GPU


class Tenants(Protocol):
    """harpd, as far as the plugin needs it."""

    def look(self) -> NodeView:
        """The node.

        Raises:
            DaemonError: harpd does not answer.
        """
        ...

    def ensure(self, grant: Grant, folder: Path) -> None:
        """Make a grant's tenant, or give it its limits if it is there.

        Raises:
            HarpError: harpd does not answer, or refuses.
        """
        ...

    def living(self) -> Mapping[str, bool]:
        """{name of a tenant that lives: whether it has processes that use a GPU}.

        Raises:
            DaemonError: harpd does not answer.
        """
        ...

    def remove(self, grant: Grant) -> None:
        """End a grant's tenant, if it lives.

        Raises:
            DaemonError: harpd does not answer.
        """
        ...


def tenant_name(grant: Grant) -> str:
    """What `harp ps` shows: namespace/pod/container, or the grant's id while that is not known."""
    return grant.id if grant.owner is None else str(grant.owner)


def make_folder(grants: Path, key: str) -> Path:
    """A grant's folder; it may be there.

    Any user of the container may be the one who uses the GPU, so the folder is open to all; and on
    the host closed to all but root by the folder around it.
    """
    folder = grants / key
    check_socket(folder / _SOCKET, "choose a shorter run folder for HARP")
    grants.mkdir(mode=0o700, parents=True, exist_ok=True)
    grants.chmod(0o700)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # whatever the umask
    # harpd takes away the empty folder of a tenant that ended: then a container that is still there
    # would have the old one mounted for ever.
    (folder / _KEEP).touch()
    return folder


def drop_folder(folder: Path) -> None:
    """Take a grant's folder away: no container has it."""
    shutil.rmtree(folder, ignore_errors=True)


def alive(folder: Path) -> bool:
    """Whether an arbiter listens in a grant's folder: then its container does without harpd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(folder / _SOCKET))
        except BlockingIOError:  # many are about to connect
            return True
        except OSError:
            return False
        return True


class HarpdTenants:
    """The real ones. Safe to use from several threads.

    Args:
        env: says where harpd is, and which software GPU containers are to share with it.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._client: Client | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Client]:
        with self._lock:
            if self._client is None:
                self._client = Client.connect(self._env)
            client = self._client
        try:
            yield client
        except DaemonUnreachable:
            # A channel waits ever longer before it tries again; a new one does not. The old one is
            # not closed: others may be in a call on it, and it goes with the last of them.
            with self._lock:
                if self._client is client:
                    self._client = None
            raise

    def look(self) -> NodeView:
        """See Tenants."""
        with self._asking() as client:
            info, state = client.info(), client.state()
        software = info.kind == pb.DEVICE_KIND_SOFTWARE
        return NodeView(
            DeviceKind.SOFTWARE if software else DeviceKind.NVIDIA,
            Path(info.cuda_path),
            Path(info.nvml_path),
            tuple(Gpu(d.uuid, d.index, d.memory_bytes, d.context_bytes) for d in state.devices),
        )

    def ensure(self, grant: Grant, folder: Path) -> None:
        """See Tenants."""
        name = tenant_name(grant)
        limits = grant.limits
        with self._asking() as client:
            # One whose socket is gone cannot be reached by its container any more: made anew.
            if alive(folder) and self._set(client, name, folder, limits):
                return
            _remove_all(client, name, folder)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
                path = folder / _SOCKET
                path.unlink(missing_ok=True)
                sock.bind(str(path))
                path.chmod(0o666)
                sock.listen(_BACKLOG)
                reply = client.create(
                    pb.CreateTenantRequest(
                        name=name,
                        gpu=",".join(grant.uuids),
                        mem_limit_bytes=limits.mem_bytes,
                        share_ppm=limits.share_ppm,
                        limit_ppm=limits.limit_ppm,
                        tenant_class=_CLASSES[limits.tenant_class],
                        oversubscribe=limits.oversubscribe,
                        context_bytes=limits.context_bytes,
                        grant_dir=str(folder),
                        ticket=client.deposit(sock),
                        program="pod",
                        any_uid=True,
                        held=True,
                        labels=_labels(grant),
                        command=grant.made.command,
                        estimated=grant.cap != Cap(),
                        asked_mem_bytes=grant.cap.from_mem_bytes,
                        asked_share_ppm=grant.cap.from_share_ppm,
                    )
                )
            try:
                self._compare(reply.env)
            except ConfigError:
                _remove(client, name)
                raise

    def needs(self, grant: Grant) -> Mapping[str, Need]:
        """See device_plugin.estimates."""
        made = grant.made
        if not (made.command or made.image or made.maker):
            return {}
        request = pb.EstimateRequest(
            command=made.command,
            image=made.image,
            owner=made.maker,
            labels=_labels(grant),
            gpu=grant.uuids[0],
            mem_bytes=grant.limits.mem_bytes,
            share_ppm=grant.limits.share_ppm,
        )
        with self._asking() as client:
            return {need.target: need_of(need) for need in client.estimate(request).needs}

    def _set(self, client: Client, name: str, folder: Path, limits: Limits) -> bool:
        """Give the tenant of that name its limits; whether it is the one of that folder."""
        try:
            reply = client.set(
                pb.SetTenantRequest(
                    name=name,
                    mem_limit_bytes=limits.mem_bytes,
                    share_ppm=limits.share_ppm,
                    limit_ppm=limits.limit_ppm,
                    tenant_class=_CLASSES[limits.tenant_class],
                    oversubscribe=limits.oversubscribe,
                )
            )
        except UnknownTenant:
            return False
        return reply.grant_dir == str(folder)

    def living(self) -> Mapping[str, bool]:
        """See Tenants."""
        with self._asking() as client:
            return {tenant.name: bool(tenant.clients) for tenant in client.state().tenants}

    def remove(self, grant: Grant) -> None:
        """See Tenants."""
        with self._asking() as client:
            _remove_of(client, tenant_name(grant), grant.id)

    def held_in(self, grants: Path) -> Mapping[str, Stray]:
        """Tenants by grant id, as far as their folders lie in that one.

        Raises:
            DaemonError: harpd does not answer.
        """
        with self._asking() as client:
            tenants = client.state().tenants
        return {
            Path(tenant.grant_dir).name: Stray(tenant.name, bool(tenant.clients))
            for tenant in tenants
            if tenant.held and Path(tenant.grant_dir).parent == grants
        }

    def remove_named(self, name: str, folder: Path) -> None:
        """End a tenant, if it lives and that folder is its own.

        Raises:
            DaemonError: harpd does not answer.
        """
        with self._asking() as client:
            _remove_of(client, name, folder.name)

    def _compare(self, theirs: Mapping[str, str]) -> None:
        for name in FROM_DAEMON:
            if self._env.get(name) != theirs.get(name):
                raise ConfigError(
                    f"{name} is {self._env.get(name)!r} for the plugin, {theirs.get(name)!r} for"
                    " harpd: containers would see other GPUs than it does",
                    "give both the same",
                )


def _labels(grant: Grant) -> dict[str, str]:
    owner = grant.owner
    if owner is None:
        return {}
    named = {"namespace": owner.namespace, "pod": owner.pod, "container": owner.container}
    made = {"image": grant.made.image, "owner": grant.made.maker}
    # What is too long for a label is not known, rather than half known.
    return named | {name: text for name, text in made.items() if 0 < len(text) <= _LABEL_CHARS}


def _remove_all(client: Client, name: str, folder: Path) -> None:
    """Who has this name, and who this folder: they may be two, if our book was lost."""
    for tenant in client.state().tenants:
        if tenant.name == name or tenant.grant_dir == str(folder):
            _remove(client, tenant.name)


def _remove_of(client: Client, name: str, key: str) -> None:
    """A pod that came again under its name has a tenant of that name too, in another folder."""
    for tenant in client.state().tenants:
        if tenant.name == name and Path(tenant.grant_dir).name == key:
            _remove(client, name)


def _remove(client: Client, name: str) -> None:
    try:
        client.remove(name)
    except UnknownTenant:
        return
