# SPDX-License-Identifier: Apache-2.0
"""NVML of one library, by absolute path.

pynvml binds one library per process, the one the loader finds by name. HARP must be able to say
which (the real driver's, never its own twin; or the software GPU's), so the library is put where
pynvml keeps it, under pynvml's own lock, before its first use.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pynvml
import structlog

from harp.errors import NvmlError

__all__ = ["Nvml", "NvmlDevice", "ProcessUse", "nvml_errors"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """A device as NVML describes it."""

    index: int
    uuid: str
    name: str
    memory_bytes: int  #: what programs can have: total less what the driver keeps
    used_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A process on a device."""

    pid: int
    mem_bytes: int | None  #: None where NVML does not say (some virtual machines)
    compute: bool  #: False: graphics alone


class Nvml:
    """An open NVML. Calls block for milliseconds: an event loop makes them in a thread."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._handles: dict[str, object] = {}
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise NvmlError(f"cannot load {library}: {error}") from error
        with pynvml.libLoadLock:
            pynvml.nvmlLib = loaded
            # Pointers into the library that was there before.
            pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - no public way
        with nvml_errors("nvmlInit"):
            pynvml.nvmlInit()

    def close(self) -> None:
        """Shut it down; another library may then be opened."""
        with nvml_errors("nvmlShutdown"):
            pynvml.nvmlShutdown()

    def driver_version(self) -> str:
        """Version of the driver."""
        with nvml_errors("nvmlSystemGetDriverVersion"):
            return str(pynvml.nvmlSystemGetDriverVersion())

    def devices(self) -> list[NvmlDevice]:
        """All devices that answer, in NVML's order; one that is lost keeps no other away.

        Raises:
            NvmlError: none answers.
        """
        with nvml_errors("nvmlDeviceGetCount"):
            count = int(pynvml.nvmlDeviceGetCount())
        found: list[NvmlDevice] = []
        lost: NvmlError | None = None
        for index in range(count):
            try:
                found.append(self._device(index))
            except NvmlError as error:
                lost = error
                _log.error("device_lost", gpu=index, reason=error.message, effect="left out")
        if lost is not None and not found:
            raise lost
        return found

    def memory_used(self, uuid: str) -> int:
        """Physical bytes in use on a device, by anybody but the driver itself."""
        return self._memory(self.handle(uuid))[1]

    def processes(self, uuid: str) -> list[ProcessUse]:
        """Every process that has a context on the device."""
        handle = self.handle(uuid)
        found: dict[int, ProcessUse] = {}
        with nvml_errors("nvmlDeviceGetComputeRunningProcesses"):
            for row in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                found[int(row.pid)] = ProcessUse(int(row.pid), row.usedGpuMemory, compute=True)
        try:
            rows = pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        except pynvml.NVMLError:
            rows = []  # headless drivers and the software GPU have none
        for row in rows:
            use = ProcessUse(int(row.pid), row.usedGpuMemory, compute=False)
            found.setdefault(use.pid, use)
        return list(found.values())

    def handle(self, uuid: str) -> object:
        """What NVML calls a device.

        Raises:
            NvmlError: it does not know it.
        """
        if uuid not in self._handles:
            with nvml_errors(f"device {uuid}"):
                self._handles[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return self._handles[uuid]

    def _device(self, index: int) -> NvmlDevice:
        with nvml_errors(f"device {index}"):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
            name = str(pynvml.nvmlDeviceGetName(handle))
        self._handles[uuid] = handle
        total, used = self._memory(handle)
        return NvmlDevice(index, uuid, name, total, used)

    def _memory(self, handle: object) -> tuple[int, int]:
        """(total, used) bytes; what the driver reserves counts in neither."""
        with contextlib.suppress(pynvml.NVMLError, AttributeError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
            return int(memory.total) - int(memory.reserved), int(memory.used)
        # Drivers before 510 know no second version and no reserved part.
        with nvml_errors("nvmlDeviceGetMemoryInfo"):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            return int(memory.total), int(memory.used)


@contextmanager
def nvml_errors(what: str) -> Iterator[None]:
    """NVML's errors as ours; its time-out as TimeoutError.

    Raises:
        NvmlError: NVML answered with an error.
    """
    try:
        yield
    except pynvml.NVMLError_Timeout as error:
        raise TimeoutError(what) from error
    except pynvml.NVMLError as error:
        raise NvmlError(f"{what}: {error}") from error
