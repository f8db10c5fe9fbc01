# SPDX-License-Identifier: Apache-2.0
"""A harpd that promises and forgets, for tests and the bench: no process, no arbiter."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_plugin.book import Grant
from device_plugin.slots import Gpu
from device_plugin.tenants import NodeView, Stray, tenant_name
from harp.errors import DaemonUnreachable, QuotaExceeded
from harp.estimator.job import Need
from harp.model import DeviceKind
from harp.units import PPM

__all__ = ["FakeTenants"]


@dataclass
class FakeTenants:
    """Keeps harpd's one promise: what is promised of a GPU fits it. See device_plugin.tenants."""

    gpus: Sequence[Gpu]
    away: bool = False  #: it does not answer
    #: {tenant's name: grant}
    made: dict[str, Grant] = field(default_factory=dict)
    #: {tenant's name: its listening socket}; an arbiter's, which outlives a harpd that is away
    sockets: dict[str, socket.socket] = field(default_factory=dict)
    #: names of tenants with processes that use a GPU
    busy: set[str] = field(default_factory=set)
    #: {container's name: what it will need}
    known: dict[str, dict[str, Need]] = field(default_factory=dict)
    #: grants that estimates were asked for
    asked: list[Grant] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> NodeView:
        """See Tenants."""
        self._answer()
        gpus = tuple(self.gpus)
        return NodeView(DeviceKind.SOFTWARE, Path("/soft/cuda"), Path("/soft/nvml"), gpus)

    def ensure(self, grant: Grant, folder: Path) -> None:
        """See Tenants."""
        self._answer()
        name = tenant_name(grant)
        with self._lock:
            others = [g for n, g in self.made.items() if n != name]
            for gpu in self.gpus:
                if gpu.uuid in grant.uuids:
                    self._admit(gpu, [g for g in others if gpu.uuid in g.uuids], grant)
            if name not in self.made:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                (folder / "arbiter.sock").unlink(missing_ok=True)
                sock.bind(str(folder / "arbiter.sock"))
                sock.listen(8)
                self.sockets[name] = sock
            self.made[name] = grant

    def needs(self, grant: Grant) -> Mapping[str, Need]:
        """See device_plugin.estimates."""
        self._answer()
        self.asked.append(grant)
        return self.known.get(grant.owner.container, {}) if grant.owner else {}

    def living(self) -> Mapping[str, bool]:
        """See Tenants."""
        self._answer()
        with self._lock:
            return {name: name in self.busy for name in self.made}

    def remove(self, grant: Grant) -> None:
        """See Tenants."""
        self._answer()
        self._lose_of(tenant_name(grant), grant.id)

    def held_in(self, grants: Path) -> Mapping[str, Stray]:
        """See device_plugin.orphans."""
        self._answer()
        with self._lock:
            return {
                grant.id: Stray(name, name in self.busy)
                for name, grant in self.made.items()
                if (grants / grant.id).is_dir()
            }

    def remove_named(self, name: str, folder: Path) -> None:
        """See device_plugin.orphans."""
        self._answer()
        self._lose_of(name, folder.name)

    def _lose_of(self, name: str, key: str) -> None:
        if name in self.made and self.made[name].id == key:
            self.lose(name)

    def lose(self, name: str) -> None:
        """A tenant ended, whoever wanted it to."""
        with self._lock:
            self.made.pop(name, None)
            if sock := self.sockets.pop(name, None):
                sock.close()

    def close(self) -> None:
        """Close all sockets."""
        for name in tuple(self.sockets):
            self.lose(name)

    def _admit(self, gpu: Gpu, others: Sequence[Grant], grant: Grant) -> None:
        all_of = [*others, grant]
        ppm = sum(g.limits.share_ppm for g in all_of)
        memory = sum(g.limits.mem_bytes + g.limits.context_bytes for g in all_of)
        if ppm > PPM or memory > gpu.memory_bytes:
            raise QuotaExceeded(
                f"GPU {gpu.index}: {ppm} ppm and {memory} bytes would be promised to"
                f" {len(all_of)} tenants"
            )

    def _answer(self) -> None:
        if self.away:
            raise DaemonUnreachable("no harpd answers", "start one")
