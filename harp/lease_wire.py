# SPDX-License-Identifier: Apache-2.0
"""The lease protocol from Python: a mirror of native/include/harp/lease.h.

One datagram on a SOCK_SEQPACKET socket is one `Msg`. tests/unit compares sizes, offsets and numbers
with the header.
"""

from __future__ import annotations

import enum
import struct
import sys
from typing import NamedTuple

from harp.errors import ArbiterError

__all__ = [
    "ALIASES",
    "ALL_DEVICES",
    "ANY_UID",
    "GRANT_NO_GANG",
    "GRANT_OVERSUBSCRIBE",
    "GRANULE_BYTES",
    "HAND_PAGES",
    "HAND_SOCKETS",
    "MSG_BYTES",
    "OLDEST",
    "PAGES_SINCE",
    "STANDING_CREDIT",
    "STANDING_LIMIT",
    "TIME_LANES",
    "TOGETHER",
    "TOGETHER_SINCE",
    "VERSION",
    "Deny",
    "Gate",
    "Kind",
    "Lane",
    "MemClass",
    "Msg",
    "Op",
    "Residency",
    "version_of",
]

#: newest and oldest version of the protocol that we speak
VERSION = 3
OLDEST = 1
MSG_BYTES = 256
NAME_BYTES = 64
#: rows of a picture in one datagram, at most
TOGETHER = 32
#: versions from which on an arbiter does that, and knows tenants' pages (SNAPSHOT's a: bits)
TOGETHER_SINCE = PAGES_SINCE = 3
HAND_SOCKETS, HAND_PAGES = 1, 2
#: time lanes of a device: compute, copy
TIME_LANES = 2
GRANULE_BYTES = 2 << 20
#: of SNAP_TIME: its account of fairness says something; its account of the limit does
STANDING_CREDIT, STANDING_LIMIT = 1, 2
ALL_DEVICES = 0xFFFFFFFF
#: of a tenant whose clients are of any uid
ANY_UID = 0xFFFFFFFF

_LAYOUT = struct.Struct("=HH5IiI4I16Q16s64s")


class Op(enum.IntEnum):
    """What a message says (enum harp_op)."""

    HELLO = 1
    LEASE_MEM = 2
    RETURN_MEM = 3
    MEM_INFO = 4
    ADOPT_MEM = 5
    WANT_TIME = 6
    YIELD_TIME = 7
    USED_TIME = 8
    RECALLED = 9
    EVICTED = 10
    RESTORED = 11
    WELCOME = 32
    DEVICE = 33
    MEM_GRANT = 34
    MEM_DENY = 35
    MEM_STATE = 36
    RECALL_MEM = 37
    OPEN_GATE = 38
    CLOSE_GATE = 39
    EVICT = 40
    RESTORE = 41
    ADD_DEVICE = 64
    ADD_TENANT = 65
    SET_TENANT = 66
    DEL_TENANT = 67
    DRAINED = 68
    SET_OVERHEAD = 69
    SNAPSHOT = 70
    SUBSCRIBE = 71
    SHUTDOWN = 72
    SUSPEND = 73
    RESUME = 74
    EXPECT = 75
    OK = 96
    ERR = 97
    SNAP_DEVICE = 98
    SNAP_TENANT = 99
    SNAP_USE = 100
    SNAP_CLIENT = 101
    SNAP_LEASE = 102
    EVENT_CLIENT = 103
    EVENT_DENY = 104
    SNAP_RESIDENCY = 105
    SNAP_TIME = 106


class Kind(enum.IntEnum):
    """What a client drives (enum harp_kind)."""

    CUDA = 1
    NULL = 2


class MemClass(enum.IntEnum):
    """What memory is charged to (enum harp_mem_class)."""

    DEVICE = 0
    OVERHEAD = 1
    HOST = 2
    SWAP = 3


class Lane(enum.IntEnum):
    """An account of time on a device (enum harp_lane)."""

    COMPUTE = 0
    COPY = 1


class Deny(enum.IntEnum):
    """Why memory was refused (enum harp_deny)."""

    LIMIT = 1
    CAPACITY = 2
    UNKNOWN = 3
    DRAINING = 4
    BUSY = 5


class Gate(enum.IntEnum):
    """A client's gate on a device, as the arbiter believes it (enum harp_gate)."""

    CLOSED = 0
    OPEN = 1
    CLOSING = 2
    OVERDUE = 3


class Residency(enum.IntEnum):
    """Where a tenant's swappable memory is (enum harp_residency)."""

    RESIDENT = 1
    EVICTING = 2
    AWAY = 3
    RESTORING = 4
    SUSPENDED = 5


class Msg(NamedTuple):
    """struct harp_msg, in the order of the wire; what each field means is said per op there.

    A tuple, since a picture has five rows a tenant, and a dataclass takes seven times as long.
    """

    op: int
    seq: int = 0
    dev: int = 0
    cls: int = 0
    tenant: int = 0
    client: int = 0
    pid: int = 0
    uid: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    amount_bytes: int = 0  #: `bytes` in C
    limit_bytes: int = 0
    leased_bytes: int = 0
    peak_bytes: int = 0
    free_bytes: int = 0
    capacity_bytes: int = 0
    overhead_bytes: int = 0
    slack_bytes: int = 0
    epoch: int = 0
    used_ns: int = 0
    copy_ns: int = 0
    wait_ns: int = 0
    quantum_ns: int = 0
    window_ns: int = 0
    launches: int = 0
    denials: int = 0
    uuid: bytes = b""
    text: str = ""

    @property
    def age_ns(self) -> int:
        """How long before the message its work ended (the place of `wait_ns`)."""
        return self.wait_ns

    @property
    def estimated_ns(self) -> int:
        """What of `used_ns` was not measured (the place of `quantum_ns`)."""
        return self.quantum_ns

    def pack(self, version: int | None = None) -> bytes:
        """As a datagram. A text longer than its field is cut at a character."""
        *numbers, _, _ = self
        text = self.text.encode()[: NAME_BYTES - 1].decode(errors="ignore").encode()
        return _LAYOUT.pack(version or VERSION, *numbers, self.uuid, text)

    @classmethod
    def unpack(cls, datagram: bytes) -> Msg:
        """Read a datagram.

        Raises:
            ArbiterError: another length or version.
        """
        if len(datagram) != MSG_BYTES:
            raise ArbiterError(f"the arbiter sent {len(datagram)} bytes instead of {MSG_BYTES}")
        version, *numbers, uuid, text = _LAYOUT.unpack(datagram)
        if not OLDEST <= version <= VERSION:
            raise ArbiterError(
                f"the arbiter speaks lease protocol {version}, harpd speaks {OLDEST} to {VERSION}",
                "end the tenants, then `harp daemon --stop --all` and start again",
            )
        said = text.partition(b"\0")[0].decode(errors="replace")
        return cls._make((*numbers, uuid, said))


def version_of(datagram: bytes) -> int:
    """The version a datagram says it has.

    Raises:
        ArbiterError: it is none, or of a version that we do not speak.
    """
    Msg.unpack(datagram)
    return int.from_bytes(datagram[:2], sys.byteorder)


#: names of the header's that share a place with another: the mirror has them as properties
ALIASES = {"age_ns": "wait_ns", "estimated_ns": "quantum_ns"}
GRANT_NO_GANG = 1
GRANT_OVERSUBSCRIBE = 2
