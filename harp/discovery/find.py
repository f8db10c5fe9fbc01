# SPDX-License-Identifier: Apache-2.0
"""Real devices where there are any, else the software GPU's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from harp.discovery.nvml import Nvml, NvmlDevice
from harp.errors import NoDevice, NvmlError
from harp.model import DeviceKind
from harp.native import NativeDir, driver_paths

__all__ = ["Found", "discover"]

_log = structlog.get_logger(__name__)
#: of all of its profiles: native/soft/gpu/soft.h
_SOFTWARE_NAME = "HARP Software GPU"


@dataclass(frozen=True, slots=True)
class Found:
    """The devices of this machine and the libraries that drive them."""

    kind: DeviceKind
    nvml: Nvml  #: open
    devices: tuple[NvmlDevice, ...]
    cuda_path: Path
    nvml_path: Path

    def kind_of(self, uuid: str) -> DeviceKind:
        """A device's kind: the software GPU may stand where the driver's libraries are looked for.

        (`python -m harp.softgpu -- harp run ...`: by its name, its figures are no GPU's.)
        """
        named = (d for d in self.devices if d.uuid == uuid and d.name.startswith(_SOFTWARE_NAME))
        return DeviceKind.SOFTWARE if any(named) else self.kind


def discover(native: NativeDir, env: Mapping[str, str], wanted: str) -> Found:
    """Find devices of the kind `wanted` ("auto", "nvidia", "software").

    Raises:
        NoDevice: there is none.
        BuildMissing: the software GPU is not built.
    """
    reasons = []
    if wanted in ("auto", "nvidia"):
        found, reason = _nvidia(env)
        if found is not None:
            return found
        reasons.append(reason)
        _log.info("no_nvidia_device", reason=reason)
    if wanted in ("auto", "software"):
        found, reason = _software(native)
        if found is not None:
            return found
        reasons.append(reason)
    raise NoDevice(
        "no device: " + "; ".join(reasons),
        "HARP_SOFT_DEVICES=h100-80g gives a software GPU; `harp doctor` looks closer",
    )


def _nvidia(env: Mapping[str, str]) -> tuple[Found | None, str]:
    paths = driver_paths(env)
    if paths.cuda is None or paths.nvml is None:
        return None, "no NVIDIA driver (libcuda.so.1, libnvidia-ml.so.1)"
    try:
        nvml = Nvml(paths.nvml)
    except NvmlError as error:
        return None, error.message
    devices = tuple(nvml.devices())
    if not devices:
        nvml.close()
        return None, "NVIDIA's driver lists no device"
    return Found(DeviceKind.NVIDIA, nvml, devices, paths.cuda, paths.nvml), ""


def _software(native: NativeDir) -> tuple[Found | None, str]:
    cuda, path = native.soft_cuda, native.soft_nvml
    try:
        nvml = Nvml(path)
        devices = tuple(nvml.devices())
    except NvmlError as error:
        return None, f"the software GPU: {error.message}"
    if not devices:
        nvml.close()
        return None, "the software GPU is configured with no device"
    return Found(DeviceKind.SOFTWARE, nvml, devices, cuda, path), ""
