# SPDX-License-Identifier: Apache-2.0
"""Grants as leases that this node's `harp remote keep` holds."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from device_plugin.book import Grant
from device_plugin.remote_share import part_ppm
from device_plugin.tenants import NodeView, Stray, tenant_name
from harp.errors import DaemonUnreachable, WireError
from harp.keep_wire import (
    LINE_BYTES,
    SOCKET,
    Held,
    Hold,
    Look,
    Looked,
    Release,
    Request,
    encode,
    read_answer,
)
from harp.model import DeviceKind

__all__ = ["Keeper"]

#: kubelet waits 30 s for a start; a node may have to be looked for
_ANSWER_S = 25.0
_REMEDY = "see the keeper's container on this node"


class Keeper:
    """What the plugin asks of it; the Tenants of remote shares. Safe to use from several threads.

    Args:
        run_dir: HARP's, the keeper's as well.
    """

    def __init__(self, run_dir: Path) -> None:
        self._socket = run_dir / SOCKET
        self._lock = threading.Lock()
        #: {grant id: the lease that it was given last}
        self._given: dict[str, Held] = {}

    def look(self) -> NodeView:
        """There is nothing on this node."""
        return NodeView(DeviceKind.SOFTWARE, Path(), Path(), ())

    def ensure(self, grant: Grant, folder: Path) -> None:
        """Have a lease taken, or see that it is there; see Tenants."""
        del folder  # by its name the keeper knows it
        hold = Hold(grant.id, tenant_name(grant), part_ppm(len(grant.ids)), grant.limits)
        held = self._ask(hold)
        if not isinstance(held, Held):
            raise _odd(held)
        with self._lock:
            self._given[grant.id] = held

    def given(self, key: str) -> Held | None:
        """The lease that ensure() was answered last."""
        with self._lock:
            return self._given.get(key)

    def held(self) -> tuple[Held, ...]:
        """All that is held.

        Raises:
            DaemonError: nobody answers.
        """
        looked = self._ask(Look())
        if not isinstance(looked, Looked):
            raise _odd(looked)
        return looked.held

    def held_in(self, grants: Path) -> Mapping[str, Stray]:
        """All that is held, by grant id; see StrayTenants. It is named by that, too."""
        del grants  # the keeper has one folder
        return {held.key: Stray(held.key, bool(held.sessions)) for held in self.held()}

    def remove_named(self, name: str, folder: Path) -> None:
        """See StrayTenants."""
        del folder  # it has that name
        self.release(name)

    def living(self) -> Mapping[str, bool]:
        """See Tenants; one that has lost its lease lives: the keeper looks for another."""
        found: dict[str, bool] = {}
        for held in self.held():  # two of one name: a pod that came again, and the one before
            found[held.name] = found.get(held.name, False) or bool(held.sessions)
        return found

    def remove(self, grant: Grant) -> None:
        """See Tenants."""
        self.release(grant.id)

    def release(self, key: str) -> None:
        """Give a lease back, if it is there.

        Raises:
            DaemonError: nobody answers.
        """
        self._ask(Release(key))
        with self._lock:
            self._given.pop(key, None)

    def _ask(self, request: Request) -> object:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_ANSWER_S)
            try:
                sock.connect(str(self._socket))
                sock.sendall(encode(request))
                with sock.makefile("rb") as answer:
                    line = answer.readline(LINE_BYTES)
            except OSError as error:
                raise DaemonUnreachable(
                    f"harp remote keep does not answer at {self._socket}:"
                    f" {error.strerror or 'it takes too long'}",
                    _REMEDY,
                ) from error
        if not line.endswith(b"\n"):
            raise DaemonUnreachable("harp remote keep has ended while it was asked", _REMEDY)
        return read_answer(line)


def _odd(answer: object) -> WireError:
    return WireError(
        f"harp remote keep answered {type(answer).__name__}, which was not asked",
        "run both of the same version",
    )
