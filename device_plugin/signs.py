# SPDX-License-Identifier: Apache-2.0
"""Where signs of GPUs' health come from: the driver's events and answers, else harpd's list.

What a probe does is to ask the driver for the GPU's memory. It makes no context: that would cost
memory which is promised to tenants, and a full GPU would look ill.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from device_plugin.health import Event, Lost, Probe, Xid
from device_plugin.tenants import Tenants
from harp.discovery import GpuEvent, Nvml, NvmlEvents, Trouble
from harp.errors import NvmlError

__all__ = ["HarpdSigns", "NvmlSigns", "Signs"]

_log = structlog.get_logger(__name__)
#: the Xid of memory that ECC cannot correct; NVML has an event of its own for it as well
_DOUBLE_BIT = 48


class Signs(Protocol):
    """A source. Asked by one thread."""

    def wait(self, timeout_s: float) -> Sequence[tuple[str, Event]]:
        """(UUID, event) as they come; nothing if none came in this time."""
        ...

    def probe(self, uuids: Iterable[str]) -> Mapping[str, Event]:
        """Ask of each GPU; one of which nothing can be said is left out.

        Raises:
            DaemonError: nothing can be said of any.
        """
        ...


class HarpdSigns:
    """harpd's list: a GPU that it has not is lost. Where NVML is not to be had."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    def wait(self, timeout_s: float) -> Sequence[tuple[str, Event]]:
        """It has no events."""
        time.sleep(timeout_s)
        return ()

    def probe(self, uuids: Iterable[str]) -> Mapping[str, Event]:
        """See Signs."""
        there = {gpu.uuid for gpu in self._tenants.look().gpus}
        return {uuid: Probe(good=True) if uuid in there else Lost() for uuid in uuids}


class NvmlSigns:
    """NVML of one library. After an error it is opened anew.

    A driver that has lost a GPU and found it again says so to who calls nvmlInit, not before.
    """

    def __init__(self, library: Path, uuids: Iterable[str]) -> None:
        """Open it.

        Raises:
            NvmlError: there is no such library, or it does not work.
        """
        self._library = library
        self._uuids = tuple(uuids)
        self._nvml: Nvml | None = None
        self._events: NvmlEvents | None = None
        self._open()

    def close(self) -> None:
        """Shut it down."""
        for part in (self._events, self._nvml):
            try:
                if part is not None:
                    part.close()
            except NvmlError as error:
                _log.warning("nvml_not_closed", reason=error.message)
        self._events = self._nvml = None

    def wait(self, timeout_s: float) -> Sequence[tuple[str, Event]]:
        """See Signs."""
        if self._events is None:
            time.sleep(timeout_s)
            return ()
        try:
            found = self._events.wait(timeout_s)
        except NvmlError as error:
            _log.warning("nvml_failed", reason=error.message)
            self.close()  # the next probe says which GPU it is
            return ()
        return [(found.uuid, _sign(found))] if found else ()

    def probe(self, uuids: Iterable[str]) -> Mapping[str, Event]:
        """See Signs."""
        if self._nvml is None:
            try:
                self._open()
            except NvmlError as error:
                _log.warning("nvml_not_opened", reason=error.message)
        seen = {uuid: self._probe(uuid) for uuid in uuids}
        if not all(sign.good for sign in seen.values()):
            self.close()
        return seen

    def _probe(self, uuid: str) -> Probe:
        if self._nvml is None:
            return Probe(good=False)
        try:
            self._nvml.memory_used(uuid)
        except NvmlError as error:
            _log.warning("probe_failed", gpu=uuid, reason=error.message)
            return Probe(good=False)
        return Probe(good=True)

    def _open(self) -> None:
        self._nvml = Nvml(self._library)
        there = {device.uuid for device in self._nvml.devices()}
        self._events = NvmlEvents(self._nvml, [uuid for uuid in self._uuids if uuid in there])


def _sign(event: GpuEvent) -> Event:
    match event.trouble:
        case Trouble.LOST:
            return Lost()
        case Trouble.ECC:
            return Xid(_DOUBLE_BIT)
        case Trouble.XID:
            return Xid(event.code)
