# SPDX-License-Identifier: Apache-2.0
"""Which node of a pool to ask for a lease. Pure: clock and rng come in.

A node's weight is what of it is free, times how fast it is, over how long a round trip to it takes:

    weight = sum over its devices of free share x capacity, / max(measured RTT, RTT_FLOOR_S)

A node is drawn with a chance proportional to its weight. Drawn, not the heaviest taken: clients
know nothing of each other, and all of them would run to the same one. What was asked of a node is
taken off its free share at once, until it is heard of again.

A node is left out if it drains, was not heard of for LOST_S, describes CUDA calls differently, has
not enough left, or has just refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from harp.errors import NodeUnreachable
from harp.remote.events import NodeState
from harp.units import PPM, format_duration, format_percent, format_size

__all__ = ["Ask", "Choice", "NodeView", "Pool", "Slot"]

#: four heartbeats
LOST_S = 2.0
#: below it a difference is the host's scheduling, not distance
RTT_FLOOR_S = 100e-6
#: assumed until one was measured and no other node's is known
RTT_UNKNOWN_S = 1e-3
#: times the slowest; more is an error, or a lie
_CAPACITY_MAX = 1000.0
#: part of a new measurement in the average
_NEWER = 0.25
#: a node that refused is asked again after this time, if nothing was heard of it before
REFUSED_S = 1.0


@dataclass(frozen=True, slots=True)
class Slot:
    """One GPU of a node, as the node says it."""

    free_bytes: int
    free_ppm: int
    capacity: float = 1.0  #: how fast it is beside others of the pool; 1: the slowest


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, as it was last heard of."""

    node_id: str
    endpoint: str
    state: NodeState
    slots: tuple[Slot, ...]
    table_hash: bytes = b""
    age_s: float = 0.0  #: since who says this has heard of it


@dataclass(frozen=True, slots=True)
class Ask:
    """What a lease is to have, on each of its devices."""

    share_ppm: int = 0
    mem_bytes: int = 0
    devices: int = 1
    table_hash: bytes = b""  #: b"": any


@dataclass(frozen=True, slots=True)
class Choice:
    """The node to ask, and why that one."""

    node: NodeView
    weight: float
    chance: float  #: with which it was drawn, 0..1


@dataclass(slots=True)
class _Known:
    view: NodeView
    heard_s: float  #: when, on our clock
    rtt_s: float | None = None  #: moving average
    asked: list[Ask] = field(default_factory=list)  #: since it was last heard of
    refused_s: float = float("-inf")


class Pool:
    """What a client knows of the nodes. Only its own methods write."""

    def __init__(self) -> None:
        #: {node_id: it}
        self._nodes: dict[str, _Known] = {}

    def heard(self, nodes: Iterable[NodeView], now_s: float) -> None:
        """A Watch message: each node in it says how it is now."""
        for view in nodes:
            known = self._nodes.setdefault(view.node_id, _Known(view, now_s))
            known.view = view
            known.heard_s = now_s - view.age_s
            known.asked.clear()
            known.refused_s = float("-inf")

    def forget(self, node_id: str) -> None:
        """A node is no longer of the pool."""
        self._nodes.pop(node_id, None)

    def measured(self, node_id: str, rtt_s: float) -> None:
        """A round trip to a node took so long."""
        known = self._nodes.get(node_id)
        if known is None or not 0 <= rtt_s < float("inf"):
            return
        old = known.rtt_s
        known.rtt_s = rtt_s if old is None else old + _NEWER * (rtt_s - old)

    def refused(self, node_id: str, now_s: float) -> None:
        """A node did not take what it was asked for."""
        if known := self._nodes.get(node_id):
            known.refused_s = now_s

    def weights(
        self, ask: Ask, now_s: float, without: AbstractSet[str] = frozenset()
    ) -> dict[str, float]:
        """{node_id: weight} of the nodes that may be asked."""
        return {
            node_id: self._weight(known)
            for node_id, known in sorted(self._nodes.items())
            if node_id not in without and not self._obstacle(known, ask, now_s)
        }

    def choose(
        self,
        ask: Ask,
        now_s: float,
        rng: random.Random,
        without: AbstractSet[str] = frozenset(),
    ) -> Choice:
        """The node to ask; what is asked counts as taken there until it is heard of again.

        Args:
            ask: what is wanted.
            now_s: the time.
            rng: the same one in the same state chooses the same.
            without: nodes that were tried in vain.

        Raises:
            NodeUnreachable: there is none; says why, node by node.
        """
        weights = self.weights(ask, now_s, without)
        if not weights:
            raise NodeUnreachable(self._why_none(ask, now_s, without), _REMEDY)
        total = sum(weights.values())
        names = list(weights)
        # Nodes with nothing free take who asks for no share; between them all are alike.
        (node_id,) = rng.choices(names, [weights[n] if total else 1.0 for n in names])
        known = self._nodes[node_id]
        known.asked.append(ask)
        chance = weights[node_id] / total if total else 1 / len(names)
        return Choice(known.view, weights[node_id], chance)

    def endpoints(self) -> dict[str, str]:
        """{node_id: endpoint} of all that were heard of."""
        return {node_id: known.view.endpoint for node_id, known in self._nodes.items()}

    def moves(self, node_id: str, now_s: float) -> bool:
        """Whether a session without state does better elsewhere: its node drains or is lost."""
        known = self._nodes.get(node_id)
        return known is None or bool(_gone(known, now_s))

    def rtt_s(self, node_id: str) -> float:
        """The round trip to a node: measured, else as to the others, else a guess."""
        known = self._nodes[node_id]
        if known.rtt_s is not None:
            return known.rtt_s
        others = sorted(k.rtt_s for k in self._nodes.values() if k.rtt_s is not None)
        return others[len(others) // 2] if others else RTT_UNKNOWN_S

    def _weight(self, known: _Known) -> float:
        free = sum(slot.free_ppm / PPM * _capacity(slot) for slot in _left(known))
        return free / max(self.rtt_s(known.view.node_id), RTT_FLOOR_S)

    def _obstacle(self, known: _Known, ask: Ask, now_s: float) -> str:
        """Why a node cannot be asked; "" if it can."""
        view = known.view
        if gone := _gone(known, now_s):
            return gone
        if ask.table_hash and view.table_hash and view.table_hash != ask.table_hash:
            return "another version of HARP"
        if now_s - known.refused_s < REFUSED_S:
            return "refused just now"
        left = _left(known)
        fitting = [s for s in left if s.free_ppm >= ask.share_ppm and s.free_bytes >= ask.mem_bytes]
        if len(fitting) >= ask.devices:
            return ""
        if not left:
            return "no GPU"
        if ask.devices > 1:
            return f"{len(fitting)} GPUs with enough left, {ask.devices} asked"
        most_ppm = max(s.free_ppm for s in left)
        most_bytes = max(s.free_bytes for s in left)
        return (
            f"at most {format_percent(most_ppm)} and {format_size(most_bytes)} left on a GPU,"
            f" {format_percent(ask.share_ppm)} and {format_size(ask.mem_bytes)} asked"
        )

    def _why_none(self, ask: Ask, now_s: float, without: AbstractSet[str]) -> str:
        if not self._nodes:
            return "no node of the pool was heard of yet"
        reasons: Mapping[str, str] = {
            n: "tried in vain" if n in without else self._obstacle(k, ask, now_s)
            for n, k in sorted(self._nodes.items())
        }
        return "no node can take the lease: " + "; ".join(f"{n}: {r}" for n, r in reasons.items())


_REMEDY = "ask for less, wait for a lease to end, or add a node"


def _capacity(slot: Slot) -> float:
    """What a node says of itself, within reason."""
    return min(max(0.0, slot.capacity), _CAPACITY_MAX)


def _gone(known: _Known, now_s: float) -> str:
    """Why nobody should be there; "" if that is not so."""
    match known.view.state:
        case NodeState.DRAINING:
            return "draining"
        case NodeState.LOST:
            return "lost, as the pool says"
        case NodeState.READY:
            age_s = now_s - known.heard_s
            if age_s > LOST_S:
                return f"not heard of for {age_s:.1f} s (limit {format_duration(LOST_S)})"
            return ""


def _left(known: _Known) -> list[Slot]:
    """What a node had free when it was heard of, less what was asked of it since."""
    slots = list(known.view.slots)
    for ask in known.asked:
        # The node takes the freest; so do we.
        order = sorted(range(len(slots)), key=lambda i: -slots[i].free_ppm)
        for index in order[: ask.devices]:
            slot = slots[index]
            slots[index] = replace(
                slot,
                free_ppm=max(0, slot.free_ppm - ask.share_ppm),
                free_bytes=max(0, slot.free_bytes - ask.mem_bytes),
            )
    return slots
