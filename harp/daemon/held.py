# SPDX-License-Identifier: Apache-2.0
"""What processes hold when their arbiter is gone, for the next one to expect. Pure.

An arbiter that handed over said it to the byte. Of one that died we have the last picture, up to a
second old, and what the device lists now: the device's word counts, the picture tells memory from
contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from harp.daemon.picture import Picture
from harp.discovery import ProcessUse

__all__ = ["Held", "held_by_device", "held_exactly"]


@dataclass(frozen=True, slots=True)
class Held:
    """One process on one device."""

    tenant_id: int
    pid: int
    device_uuid: str
    program: str
    leased_bytes: int  #: of class DEVICE
    overhead_bytes: int
    most_bytes: int | None  #: most of class DEVICE it may say it holds; None: not known


def held_exactly(picture: Picture) -> list[Held]:
    """From the last picture of an arbiter that handed over: its word is exact."""
    return [
        Held(tenant_id, pid, uuid, program, leased, overhead, leased)
        for (tenant_id, pid, uuid), (program, leased, overhead) in _by_process(picture).items()
    ]


def held_by_device(
    uses: Mapping[str, Iterable[ProcessUse]],
    picture: Picture,
    owner_of: Callable[[int], int | None],
    context_bytes: Mapping[str, int],
    slack_bytes: int,
) -> list[Held]:
    """From what the devices list, and the last picture of an arbiter that died.

    Args:
        uses: by device UUID.
        picture: may be empty.
        owner_of: tenant of a pid that is not in the picture; None: nobody's.
        context_bytes: what a context costs, by device UUID.
        slack_bytes: most that a process may have leased and not used.
    """
    last = _by_process(picture)
    tenant_of = {client.pid: client.tenant_id for client in picture.clients.values()}
    found = []
    for uuid, listed in uses.items():
        for use in listed:
            tenant_id = tenant_of.get(use.pid) or owner_of(use.pid)
            if tenant_id is None:
                continue
            program, leased, overhead = last.get((tenant_id, use.pid, uuid), ("", 0, 0))
            most = None
            if use.mem_bytes is not None:
                overhead = min(use.mem_bytes, overhead or context_bytes.get(uuid, 0))
                most = max(use.mem_bytes, leased) + slack_bytes
                leased = use.mem_bytes - overhead
            found.append(Held(tenant_id, use.pid, uuid, program, leased, overhead, most))
    # Who had leases and is on no list holds nothing, and may have unused ones.
    listed_on = {(use.pid, uuid) for uuid, listed in uses.items() for use in listed}
    for (tenant_id, pid, uuid), (program, _, _) in last.items():
        if uuid in uses and (pid, uuid) not in listed_on:
            found.append(Held(tenant_id, pid, uuid, program, 0, 0, slack_bytes))
    return found


def _by_process(picture: Picture) -> dict[tuple[int, int, str], tuple[str, int, int]]:
    """{(tenant_id, pid, uuid): (program, leased, overhead)}; a process may have two sessions."""
    found: dict[tuple[int, int, str], tuple[str, int, int]] = {}
    for (client_id, uuid), hold in picture.holds.items():
        client = picture.clients.get(client_id)
        if client is None or not client.pid:
            continue
        key = (client.tenant_id, client.pid, uuid)
        _, before, contexts = found.get(key, ("", 0, 0))
        found[key] = (client.program, before + hold.leased_bytes, contexts + hold.overhead_bytes)
    return found
