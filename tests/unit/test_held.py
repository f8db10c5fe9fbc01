# SPDX-License-Identifier: Apache-2.0
"""What an arbiter is told to expect: the word of the one before, or of the devices."""

from __future__ import annotations

from harp.daemon.held import Held, held_by_device, held_exactly
from harp.daemon.picture import Hold, Picture
from harp.discovery import ProcessUse
from harp.model import Client, ClientState

MIB = 1 << 20
CONTEXT, SLACK = 60 * MIB, 64 * MIB
A, B = "GPU-a", "GPU-b"


def picture(*rows: tuple[int, int, int, str, int, int]) -> Picture:
    """Rows: client, tenant, pid, uuid, leased, overhead."""
    return Picture(
        clients={c: Client(c, t, p, ClientState.LIVE, f"program-{p}") for c, t, p, *_ in rows},
        holds={(c, uuid): Hold(leased, over) for c, _, _, uuid, leased, over in rows},
    )


def use(pid: int, mem_bytes: int | None) -> ProcessUse:
    return ProcessUse(pid=pid, mem_bytes=mem_bytes, compute=True)


def by_device(uses: dict[str, list[ProcessUse]], last: Picture, **owners: int) -> list[Held]:
    return held_by_device(
        uses, last, lambda pid: owners.get(f"p{pid}"), dict.fromkeys((A, B), CONTEXT), SLACK
    )


def test_the_word_of_an_arbiter_that_handed_over_is_exact() -> None:
    told = picture((1, 5, 70, A, 10 * MIB, CONTEXT), (2, 5, 71, B, 20 * MIB, 0))
    assert held_exactly(told) == [
        Held(5, 70, A, "program-70", 10 * MIB, CONTEXT, 10 * MIB),
        Held(5, 71, B, "program-71", 20 * MIB, 0, 20 * MIB),
    ]


def test_two_sessions_of_a_process_are_one() -> None:
    told = picture((1, 5, 70, A, 10 * MIB, CONTEXT), (2, 5, 70, A, 20 * MIB, CONTEXT))
    (held,) = held_exactly(told)
    assert (held.leased_bytes, held.overhead_bytes) == (30 * MIB, 2 * CONTEXT)


def test_after_a_crash_the_devices_word_counts() -> None:
    last = picture((1, 5, 70, A, 10 * MIB, CONTEXT))
    (held,) = by_device({A: [use(70, 500 * MIB)]}, last)
    # it has had more since the picture was taken
    assert held == Held(5, 70, A, "program-70", 440 * MIB, CONTEXT, 564 * MIB)


def test_a_process_of_no_picture_is_its_owners() -> None:
    """harpd and the arbiter died together, or it came in the last second."""
    (held,) = by_device({A: [use(70, 100 * MIB), use(71, MIB)]}, Picture(), p70=5)
    assert held == Held(5, 70, A, "", 40 * MIB, CONTEXT, 164 * MIB)
    (small,) = by_device({A: [use(70, MIB)]}, Picture(), p70=5)
    assert (small.leased_bytes, small.overhead_bytes) == (0, MIB)


def test_where_the_device_does_not_say_how_much_the_picture_counts_and_nobody_is_clamped() -> None:
    last = picture((1, 5, 70, A, 10 * MIB, CONTEXT))
    assert by_device({A: [use(70, None)]}, last) == [
        Held(5, 70, A, "program-70", 10 * MIB, CONTEXT, None)
    ]


def test_who_is_on_no_device_holds_nothing() -> None:
    last = picture((1, 5, 70, A, 900 * MIB, 0))
    assert by_device({A: [], B: [use(70, MIB)]}, last) == [
        Held(5, 70, B, "", 0, MIB, MIB + SLACK),
        Held(5, 70, A, "program-70", 0, 0, SLACK),
    ]
