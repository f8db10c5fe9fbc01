# SPDX-License-Identifier: Apache-2.0
"""The arbiter's snapshot as data. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from harp.lease_wire import (
    GRANT_OVERSUBSCRIBE,
    STANDING_CREDIT,
    STANDING_LIMIT,
    Msg,
    Op,
)
from harp.model import Client, ClientState, Residency, ResidencyState, Standing, Use
from harp.units import PPM

__all__ = ["ArbiterDevice", "ArbiterTenant", "Hold", "Picture", "parse"]


@dataclass(frozen=True, slots=True)
class ArbiterDevice:
    """A device as the arbiter counts it."""

    leased_bytes: int = 0
    draining_bytes: int = 0
    overhead_bytes: int = 0
    holder: int = 0  #: tenant whose gate is open; 0: none


@dataclass(frozen=True, slots=True)
class ArbiterTenant:
    """A tenant as the arbiter knows it: enough to rebuild a grant that our store lost."""

    tenant_id: int
    name: str
    uid: int
    device_uuids: tuple[str, ...] = ()
    mem_bytes: int = 0  #: this and the rest: of the first device
    share_ppm: int = 0
    limit_ppm: int = 0
    class_value: int = 0
    host_bytes: int = 0
    oversubscribe: bool = False
    context_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """What a client holds on a device."""

    leased_bytes: int = 0  #: memory
    overhead_bytes: int = 0  #: contexts, and what is charged beyond the leases
    context_bytes: int = 0  #: of that, leased for contexts
    unleased_bytes: int = 0  #: of that, what counts against the tenant's limit
    changes: int = 0  #: how often its leases changed so far

    @property
    def extra_bytes(self) -> int:
        """What is charged beyond the leases."""
        return self.overhead_bytes - self.context_bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """One consistent view of the arbiter."""

    #: {uuid: device}
    devices: Mapping[str, ArbiterDevice] = field(default_factory=dict)
    #: {tenant_id: tenant}
    tenants: Mapping[int, ArbiterTenant] = field(default_factory=dict)
    #: {(tenant_id, uuid): use}; an entry for each device of a grant
    uses: Mapping[tuple[int, str], Use] = field(default_factory=dict)
    #: {client_id: client}; LIVE and DRAINING ones
    clients: Mapping[int, Client] = field(default_factory=dict)
    #: {(client_id, uuid): what it holds}; only where that is something
    holds: Mapping[tuple[int, str], Hold] = field(default_factory=dict)
    #: {tenant_id: its clients}: made once, for each tenant is asked about, and more than once
    _by_tenant: Mapping[int, list[Client]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Group the clients."""
        found: dict[int, list[Client]] = {}
        for client in self.clients.values():
            found.setdefault(client.tenant_id, []).append(client)
        object.__setattr__(self, "_by_tenant", found)

    def clients_of(self, tenant_id: int) -> list[Client]:
        """A tenant's clients, oldest first."""
        return [*self._by_tenant.get(tenant_id, ())]

    def draining(self) -> list[Client]:
        """The dead whose memory is not back."""
        return [c for c in self.clients.values() if c.state is ClientState.DRAINING]


def parse(messages: Iterable[Msg], uuid_of: Mapping[int, str]) -> Picture:
    """Read the SNAP_* messages of one snapshot.

    Args:
        messages: in any order.
        uuid_of: {the arbiter's device number: UUID}. Devices that are not in it are left out.
    """
    devices: dict[str, ArbiterDevice] = {}
    tenants: dict[int, ArbiterTenant] = {}
    grants: dict[int, dict[int, Msg]] = {}
    residencies: dict[tuple[int, str], Msg] = {}
    standings: dict[tuple[int, str], Standing] = {}
    clients: dict[int, Client] = {}
    holds: dict[tuple[int, str], Hold] = {}
    for message in messages:
        uuid = uuid_of.get(message.dev, "")
        match message.op:
            case Op.SNAP_DEVICE if uuid:
                devices[uuid] = ArbiterDevice(
                    message.leased_bytes,
                    message.amount_bytes,
                    message.overhead_bytes,
                    message.tenant,
                )
            case Op.SNAP_TENANT:
                tenants[message.tenant] = ArbiterTenant(message.tenant, message.text, message.uid)
            case Op.SNAP_USE if uuid:
                grants.setdefault(message.tenant, {})[message.dev] = message
            case Op.SNAP_RESIDENCY if uuid:
                residencies[message.tenant, uuid] = message
            case Op.SNAP_TIME if uuid:
                standings[message.tenant, uuid] = _standing(message)
            case Op.SNAP_CLIENT if message.d in _STATES:
                clients[message.client] = client_of(message)
            case Op.SNAP_LEASE if uuid:
                holds[message.client, uuid] = _hold(message)
            case _:
                pass
    for tenant_id, by_device in grants.items():
        if tenant_id in tenants:
            grant = by_device[min(by_device)]
            tenants[tenant_id] = replace(
                tenants[tenant_id],
                device_uuids=tuple(uuid_of[number] for number in sorted(by_device)),
                mem_bytes=grant.limit_bytes,
                share_ppm=grant.b,
                limit_ppm=grant.c,
                class_value=grant.d,
                host_bytes=grant.capacity_bytes,
                context_bytes=grant.slack_bytes,
            )
    for key, message in residencies.items():
        if key[0] in tenants and message.c & GRANT_OVERSUBSCRIBE:
            tenants[key[0]] = replace(tenants[key[0]], oversubscribe=True)
    uses: dict[tuple[int, str], Use] = {}
    for tenant_id, by_device in grants.items():
        for number, message in by_device.items():
            key = (tenant_id, uuid_of[number])
            uses[key] = _use(message, residencies.get(key), standings.get(key))
    contexts: dict[tuple[int, str], int] = {}
    for (client_id, uuid), hold in holds.items():
        if client_id not in clients:
            continue
        client = clients[client_id]
        clients[client_id] = replace(
            client,
            leased_bytes=client.leased_bytes + hold.leased_bytes,
            overhead_bytes=client.overhead_bytes + hold.overhead_bytes,
            unleased_bytes=client.unleased_bytes + hold.unleased_bytes,
        )
        key = (client.tenant_id, uuid)
        contexts[key] = contexts.get(key, 0) + hold.overhead_bytes - hold.unleased_bytes
        if key in uses and hold.unleased_bytes:
            unleased = uses[key].unleased_bytes + hold.unleased_bytes
            uses[key] = replace(uses[key], unleased_bytes=unleased)
    number_of = {uuid: number for number, uuid in uuid_of.items()}
    for key, held_bytes in contexts.items():
        beside = grants[key[0]][number_of[key[1]]].slack_bytes if key in uses else 0
        if beside and held_bytes > beside:
            uses[key] = replace(uses[key], context_bytes=held_bytes - beside)
    return Picture(devices, tenants, uses, dict(sorted(clients.items())), holds)


_STATES = {ClientState.LIVE.value, ClientState.DRAINING.value}


def client_of(message: Msg) -> Client:
    """The client of a SNAP_CLIENT or EVENT_CLIENT."""
    return Client(message.client, message.tenant, message.pid, ClientState(message.d), message.text)


def _hold(message: Msg) -> Hold:
    return Hold(
        leased_bytes=message.leased_bytes,
        overhead_bytes=message.overhead_bytes,
        context_bytes=message.amount_bytes,
        unleased_bytes=message.limit_bytes,
        changes=message.epoch,
    )


def _residency(message: Msg) -> Residency:
    return Residency(
        state=ResidencyState(message.a),
        stuck=message.b == 1,
        swap_bytes=message.leased_bytes,
        on_device_bytes=message.amount_bytes,
        away_ns=message.wait_ns,
        away_now_ns=message.window_ns,
        swapping_ns=message.used_ns,
        swaps=message.launches,
        stay_ns=message.quantum_ns,
    )


def _standing(message: Msg) -> Standing:
    has_credit, has_limit = message.c & STANDING_CREDIT, message.c & STANDING_LIMIT
    return Standing(
        weight_ratio=message.a / PPM if has_credit else None,
        credit_ns=message.used_ns - message.copy_ns if has_credit else None,
        limit_credit_ns=message.wait_ns - message.quantum_ns if has_limit else None,
        open_gates=message.b,
        queued_ns=message.window_ns,
    )


def _use(message: Msg, away: Msg | None, standing: Standing | None) -> Use:
    return Use(
        leased_bytes=message.leased_bytes,
        draining_bytes=message.amount_bytes,
        host_leased_bytes=message.free_bytes,
        peak_bytes=message.peak_bytes,
        used_ns=message.used_ns,
        estimated_ns=message.estimated_ns,
        copy_ns=message.copy_ns,
        launches=message.launches,
        wait_ns=message.wait_ns,
        wants=bool(message.a),
        denials=message.denials,
        residency=None if away is None else _residency(away),
        standing=standing,
    )
