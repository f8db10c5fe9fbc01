# SPDX-License-Identifier: Apache-2.0
"""What the driver reports of its GPUs by itself: errors, as they happen."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Iterable
from dataclasses import dataclass

import pynvml

from harp.discovery.nvml import Nvml, nvml_errors

__all__ = ["GpuEvent", "NvmlEvents", "Trouble"]


class Trouble(enum.Enum):
    """Kind of an event."""

    XID = "xid"  #: an error with a number, a program's or the GPU's
    ECC = "ecc"  #: memory with an error that cannot be corrected
    LOST = "lost"  #: the GPU is not reached any more


_TYPES = {
    pynvml.nvmlEventTypeXidCriticalError: Trouble.XID,
    pynvml.nvmlEventTypeDoubleBitEccError: Trouble.ECC,
    pynvml.nvmlEventTypeGpuUnavailableError: Trouble.LOST,
}


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """One event."""

    uuid: str
    trouble: Trouble
    code: int = 0  #: of an Xid


class NvmlEvents:
    """Events of some devices from here on. One thread waits."""

    def __init__(self, nvml: Nvml, uuids: Iterable[str]) -> None:
        """Ask for them; of a device, those that it has.

        Raises:
            NvmlError: the driver has none, or does not know a device.
        """
        #: {address of a device's handle: its UUID}: a lost device does not say it any more
        self._uuids: dict[int, str] = {}
        with nvml_errors("nvmlEventSetCreate"):
            self._set = pynvml.nvmlEventSetCreate()
        try:
            for uuid in uuids:
                handle = nvml.handle(uuid)
                self._uuids[_address(handle)] = uuid
                with nvml_errors(f"events of {uuid}"):
                    has = int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
                    wanted = sum(kind for kind in _TYPES if kind & has)
                    if wanted:
                        pynvml.nvmlDeviceRegisterEvents(handle, wanted, self._set)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """No more events."""
        with nvml_errors("nvmlEventSetFree"):
            pynvml.nvmlEventSetFree(self._set)

    def wait(self, timeout_s: float) -> GpuEvent | None:
        """The next one; None: none came.

        Raises:
            NvmlError: a GPU was lost, or the driver is gone; which one does not say.
        """
        try:
            with nvml_errors("nvmlEventSetWait"):
                found = pynvml.nvmlEventSetWait_v2(self._set, int(timeout_s * 1000))
        except TimeoutError:
            return None
        uuid = self._uuids.get(_address(found.device), "")
        trouble = _TYPES.get(int(found.eventType), Trouble.XID)
        return GpuEvent(uuid, trouble, int(found.eventData) if trouble is Trouble.XID else 0)


def _address(handle: object) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
