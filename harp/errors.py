# SPDX-License-Identifier: Apache-2.0
"""Every error HARP raises, as one tree.

    HarpError                       never raised itself; the CLI prints it as one line and a hint
      ConfigError                   a setting or an option is wrong
        UnitError                   a size, percentage or duration cannot be read or is out of range
      DeviceError
        NoDevice                    no device, or none of that name
        DeviceBusy                  another run directory's arbiter owns the device
        CheckpointFailed            the driver could not put a process away, or bring it back
      TenantError
        UnknownTenant               no tenant of that name
        TenantExists                the name is taken
        NotOwner                    somebody else's tenant
      QuotaExceeded                 the device has not that much left to promise
      DaemonError
        DaemonUnreachable           harpd is not there, or did not answer in time
        Unauthenticated             the caller's token is unknown to this harpd
        ArbiterError                harp-arbiter is not there, or refused
        RunDirUnsafe                a run directory is not what it must be
        HistoryError                history cannot be read, or written
          LearnedLost               what was learned from it cannot be read back
      NativeError
        BuildMissing                a library or program of HARP is not where it must be
        NvmlError                   NVML answered with an error
      TraceError                    a file is no trace, or does not say what it must
      RemoteError
        WireError                   bytes that are no call, or no answer to one
        UnknownLease                no lease or session of that name, or somebody else's
        TableMismatch               the two sides describe CUDA calls differently
        NodeDraining                the node takes nobody new
        NodeUnreachable             a node is not there, or the two do not trust each other
        CertificateError            a certificate, key or authority is not what it must be

Each carries a `hint`: what the reader can do about it.
"""

from __future__ import annotations

__all__ = [
    "ArbiterError",
    "BuildMissing",
    "CertificateError",
    "CheckpointFailed",
    "ConfigError",
    "DaemonError",
    "DaemonUnreachable",
    "DeviceBusy",
    "DeviceError",
    "HarpError",
    "HistoryError",
    "LearnedLost",
    "NativeError",
    "NoDevice",
    "NodeDraining",
    "NodeUnreachable",
    "NotOwner",
    "NvmlError",
    "QuotaExceeded",
    "RemoteError",
    "RunDirUnsafe",
    "TableMismatch",
    "TenantError",
    "TenantExists",
    "TraceError",
    "Unauthenticated",
    "UnitError",
    "UnknownLease",
    "UnknownTenant",
    "WireError",
]


class HarpError(Exception):
    """Base of the tree.

    Args:
        message: what is wrong, with the object, the observed value and the limit.
        hint: what to do about it; empty if there is nothing to say.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(HarpError):
    """A setting or an option is wrong."""


class UnitError(ConfigError):
    """A size, percentage or duration cannot be read or is out of range."""


class DeviceError(HarpError):
    """Something about a device."""


class NoDevice(DeviceError):
    """There is no device, or none of that name."""


class DeviceBusy(DeviceError):
    """Another run directory's arbiter owns the device."""


class CheckpointFailed(DeviceError):
    """The driver could not put a process away, or bring it back."""


class TenantError(HarpError):
    """Something about a tenant."""


class UnknownTenant(TenantError):
    """No tenant has that name."""


class TenantExists(TenantError):
    """A living tenant has that name already."""


class NotOwner(TenantError):
    """The tenant belongs to another user."""


class QuotaExceeded(HarpError):
    """The device has not that much memory or time left to promise."""


class DaemonError(HarpError):
    """Something about HARP's own processes."""


class DaemonUnreachable(DaemonError):
    """The daemon is not there, or did not answer in time."""


class Unauthenticated(DaemonError):
    """The caller's token is unknown to this daemon (it may have been restarted)."""


class ArbiterError(DaemonError):
    """The arbiter is not there, or refused."""


class RunDirUnsafe(DaemonError):
    """A run directory is a link, or belongs to the wrong user, or is open to all."""


class HistoryError(DaemonError):
    """History of runs cannot be read, or written."""


class LearnedLost(HistoryError):
    """What was learned from history cannot be read back."""


class NativeError(HarpError):
    """Something about the compiled parts."""


class BuildMissing(NativeError):
    """A library or program of HARP is not where it must be."""


class NvmlError(NativeError):
    """NVML answered with an error."""


class TraceError(HarpError):
    """A file is no trace, or does not say what it must."""


class RemoteError(HarpError):
    """Something about a GPU elsewhere, or what was recorded of one."""


class WireError(RemoteError):
    """Bytes that are no call, or no answer to one."""


class UnknownLease(RemoteError):
    """No lease or session has that name, or it is somebody else's."""


class TableMismatch(RemoteError):
    """The two sides of a session describe CUDA calls differently."""


class NodeDraining(RemoteError):
    """The node takes no new leases or sessions."""


class NodeUnreachable(RemoteError):
    """A node is not there, or the two sides do not trust each other."""


class CertificateError(RemoteError):
    """A certificate, a key or an authority is missing, has run out or does not fit."""
