# SPDX-License-Identifier: Apache-2.0
"""The arbiter's pure core through ctypes: events in, actions out, the caller's clock.

The library is native/src/arbiter/bridge.c with the very files that harp-arbiter is made of.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harp.errors import NativeError

__all__ = ["NEVER", "POLICIES", "Act", "Action", "Answer", "Bridge", "Event", "Msg", "load"]

NEVER = 2**64 - 1
_COUNTS = ("used_ns", "copy_ns", "wait_ns", "quantum_ns", "window_ns", "launches", "denials")
_SIZES = ("limit", "leased", "peak", "free", "capacity", "overhead", "slack")


class Msg(ctypes.Structure):
    """struct harp_msg of native/include/harp/lease.h."""

    _fields_ = [
        ("version", ctypes.c_uint16),
        ("op", ctypes.c_uint16),
        *[(name, ctypes.c_uint32) for name in ("seq", "dev", "cls", "tenant", "client")],
        ("pid", ctypes.c_int32),
        *[(name, ctypes.c_uint32) for name in ("uid", "a", "b", "c", "d")],
        ("bytes", ctypes.c_uint64),
        *[(f"{name}_bytes", ctypes.c_uint64) for name in _SIZES],
        ("epoch", ctypes.c_uint64),
        *[(name, ctypes.c_uint64) for name in _COUNTS],
        ("uuid", ctypes.c_uint8 * 16),
        ("text", ctypes.c_char * 64),
    ]

    @property
    def age_ns(self) -> int:
        """How long before the message its work ended (the place of `wait_ns`)."""
        return int(self.wait_ns)

    @age_ns.setter
    def age_ns(self, value: int) -> None:
        self.wait_ns = value

    @property
    def estimated_ns(self) -> int:
        """What of `used_ns` was not measured (the place of `quantum_ns`)."""
        return int(self.quantum_ns)


class Action(ctypes.Structure):
    """struct harp_event and struct harp_action of core.h: they look alike."""

    _fields_ = [("kind", ctypes.c_uint32), ("client", ctypes.c_uint32), ("msg", Msg)]


class Event:
    """enum harp_event_kind."""

    JOIN, MESSAGE, DEAD, ADMIN, WATCHED, TICK = range(1, 7)


class Answer:
    """enum harp_action_kind."""

    SEND, REPLY, EVENT, JOINED, CLOSE, LOG = range(1, 7)


#: enum harp_policy, by name
POLICIES = {"drr": 0, "priority": 1, "fifo": 2}


@dataclass(slots=True)
class Act:
    """One action, copied out of the core."""

    kind: int
    client: int
    msg: Msg


def load(path: Path) -> ctypes.CDLL:
    """Open the library and say what its functions take.

    Raises:
        NativeError: it cannot be loaded, or is of another release.
    """
    try:
        lib = ctypes.CDLL(str(path))
        lib.harp_bridge_new.restype = ctypes.c_void_p
    except (OSError, AttributeError) as error:
        raise NativeError(f"{path}: {error}", "build HARP's native parts again") from error
    sizes = [ctypes.c_uint32] * 3
    lib.harp_bridge_new.argtypes = [ctypes.c_uint64, *sizes, ctypes.c_uint64, ctypes.c_uint32]
    lib.harp_bridge_free.argtypes = [ctypes.c_void_p]
    lib.harp_bridge_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(Action), ctypes.c_uint64]
    lib.harp_bridge_actions.argtypes = [ctypes.c_void_p]
    lib.harp_bridge_actions.restype = ctypes.POINTER(Action)
    lib.harp_bridge_next.argtypes = [ctypes.c_void_p]
    lib.harp_bridge_next.restype = ctypes.c_uint64
    lib.harp_bridge_check.argtypes = [ctypes.c_void_p]
    lib.harp_bridge_check.restype = ctypes.c_char_p
    return lib


class Bridge:
    """One core."""

    def __init__(
        self,
        lib: ctypes.CDLL,
        *,
        quantum_ns: int = 5_000_000,
        burst_ns: int = 50_000_000,
        policy: str = "drr",
        clients: int = 256,
        per_tenant: int = 256,
        tenants: int = 64,
    ) -> None:
        self._lib = lib
        self._core = lib.harp_bridge_new(
            quantum_ns, clients, per_tenant, tenants, burst_ns, POLICIES[policy]
        )
        if not self._core:
            raise NativeError(
                f"the policy core refuses quantum {quantum_ns} ns, burst {burst_ns} ns, policy"
                f" {policy}, {clients} clients, {tenants} tenants",
                "see native/src/arbiter/core.h for the limits",
            )

    def close(self) -> None:
        """Free it. Safe to call again."""
        core, self._core = self._core, None
        if core:
            self._lib.harp_bridge_free(core)

    def step(self, event: Action, now_ns: int) -> Iterator[Act]:
        """Hand an event in; the actions are copies."""
        count = self._lib.harp_bridge_step(self._core, ctypes.byref(event), now_ns)
        if count < 0:
            raise NativeError("one step of the policy core had more actions than are kept")
        raw = self._lib.harp_bridge_actions(self._core)
        for i in range(count):
            action = raw[i]
            yield Act(action.kind, action.client, Msg.from_buffer_copy(action.msg))

    def next_ns(self) -> int:
        """When the next tick is due; NEVER if none is."""
        return int(self._lib.harp_bridge_next(self._core))

    def check(self) -> str:
        """What is broken between two steps; "" if all is well."""
        broken = self._lib.harp_bridge_check(self._core)
        return broken.decode() if broken else ""
