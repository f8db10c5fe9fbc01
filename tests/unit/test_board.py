# SPDX-License-Identifier: Apache-2.0
"""Rows, series and sentences of `harp top`, without a terminal."""

from __future__ import annotations

import pytest
from top_cases import GIB, S, gpu, reply, tenant

from harp.api.v1 import control_pb2 as pb
from harp.cli.board import SORTS, Board, alarms, details, devices, spark, tenants


def use(used_s: float = 0, uuid: str = "GPU-0", **fields: int) -> pb.DeviceUse:
    return pb.DeviceUse(uuid=uuid, used_ns=round(used_s * S), **fields)  # type: ignore[arg-type]


def board(*replies: pb.WatchSamplesReply) -> Board:
    made = Board()
    for one in replies:
        made.see(one)
    return made


def test_a_share_is_what_was_used_between_two_samples_whatever_was_dropped() -> None:
    seen = board(
        reply(0, tenant(1, "t", use(5))),
        reply(1, tenant(1, "t", use(5.25))),
        reply(5, tenant(1, "t", use(8.25)), dropped=3),
    )
    assert list(seen.series[1, 0].share) == [None, 0.25, 0.75]
    assert list(seen.busy["GPU-0"].share) == [None, 0.25, 0.75]
    assert seen.dropped == 3


def test_of_several_gpus_a_share_is_the_mean_and_each_is_busy_for_itself() -> None:
    seen = board(
        reply(0, tenant(1, "a", use(), use(uuid="GPU-1")), tenant(2, "b", use()), gpus=2),
        reply(2, tenant(1, "a", use(1), use(0.5, "GPU-1")), tenant(2, "b", use(0.5)), gpus=2),
    )
    assert seen.series[1, 0].share[-1] == pytest.approx(0.375)
    assert seen.busy["GPU-0"].share[-1] == pytest.approx(0.75)
    assert seen.busy["GPU-1"].share[-1] == pytest.approx(0.25)
    assert seen.gpus(seen.sample.tenants[0]) == "0,1"


def test_what_a_new_arbiter_counts_from_0_is_no_share() -> None:
    seen = board(
        reply(0, tenant(1, "t", use(5, launches=7))),
        reply(1, tenant(1, "t", use(0, launches=1))),
        reply(2, tenant(1, "t", use(0.5, launches=11))),
    )
    assert list(seen.series[1, 0].share) == [None, None, 0.5]
    assert seen.series[1, 0].launches == 10


@pytest.mark.parametrize(("used_s", "launches"), [(0.1, 9), (5.5, 1)])
def test_one_count_that_went_back_is_enough(used_s: float, launches: int) -> None:
    seen = board(
        reply(0, tenant(1, "t", use(5, launches=7))),
        reply(1, tenant(1, "t", use(used_s, launches=launches))),
    )
    assert seen.series[1, 0].share[-1] is None


def test_what_was_missed_adds_up() -> None:
    assert board(reply(0, dropped=3), reply(1, dropped=4), reply(2)).dropped == 7


def test_samples_that_are_not_new_are_a_gap() -> None:
    seen = board(
        reply(0, tenant(1, "t", use(5))),
        reply(1, tenant(1, "t", use(5)), problem="harp-arbiter did not answer"),
    )
    assert list(seen.series[1, 0].share) == [None, None]
    assert list(seen.busy["GPU-0"].share) == [None, None]


def test_who_gets_a_number_again_has_a_past_of_its_own() -> None:
    seen = board(
        reply(0, tenant(1, "old", use(5))),
        reply(1, tenant(1, "old", use(5.5))),
        reply(2, tenant(1, "new", use(6.5), created_s=1.5)),
        reply(3, tenant(1, "new", use(6.75), created_s=1.5)),
    )
    (series,) = seen.series.values()
    assert list(series.share) == [None, 0.25]
    before = board(reply(0, tenant(1, "old")))
    marks = {tenants(one, one.chosen("name"), 4, 4)[0].key for one in (seen, before)}
    assert len(marks) == 2  # the cursor does not stay with the number


def test_who_is_gone_leaves_nothing() -> None:
    seen = board(reply(0, tenant(1, "t"), tenant(2, "s")), reply(1, tenant(2, "s")))
    assert list(seen.series) == [(2, 0)]
    assert seen.chosen("name") == [tenant(2, "s")]


@pytest.mark.parametrize(
    ("limit", "held", "part"), [(2 * GIB, GIB, 0.5), (0, 2 * GIB, 0.25), (0, 0, 0.0)]
)
def test_memory_is_a_part_of_the_limit_or_of_the_gpu(limit: int, held: int, part: float) -> None:
    seen = board(reply(0, tenant(1, "t", use(leased_bytes=held), mem_limit_bytes=limit)))
    assert list(seen.series[1, 0].mem) == [part]


MANY = (
    tenant(1, "bravo", use(used_ratio=0.5, leased_bytes=1, wait_ns=5)),  # type: ignore[arg-type]
    tenant(2, "alpha", use(leased_bytes=9), user="root"),
    tenant(3, "charlie", use(uuid="GPU-1", wait_ns=9), tenant_class=pb.TENANT_CLASS_LATENCY),
    tenant(4, "able", use()),
)


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("used", ["bravo", "able", "alpha", "charlie"]),
        ("mem", ["alpha", "bravo", "able", "charlie"]),
        ("wait", ["charlie", "bravo", "able", "alpha"]),
        ("name", ["able", "alpha", "bravo", "charlie"]),
    ],
)
def test_rows_are_sorted_and_by_name_where_that_says_nothing(sort: str, names: list[str]) -> None:
    seen = board(reply(0, *MANY, gpus=2))
    assert [t.name for t in seen.chosen(sort)] == names
    backwards = [t.name for t in seen.chosen(sort, reverse=True)]
    assert backwards == names[::-1]
    assert set(SORTS) == {"used", "mem", "wait", "name"}


@pytest.mark.parametrize(
    ("needle", "names"),
    [
        ("", ["able", "alpha", "bravo", "charlie"]),
        ("AL", ["alpha"]),
        ("root", ["alpha"]),
        ("latency", ["charlie"]),
        ("gpu1", ["charlie"]),
        ("[a-z]", []),
    ],
)
def test_a_filter_looks_at_name_user_class_and_gpu(needle: str, names: list[str]) -> None:
    assert [t.name for t in board(reply(0, *MANY, gpus=2)).chosen("name", needle)] == names


def test_sparks() -> None:
    assert spark([0, 0.1249, 0.125, 0.5, 0.99, 1, 1.5, -1], 8) == "▁▁▂▅███▁"
    assert spark([None, 1.0], 5) == "    █"
    assert spark([0.0] * 9 + [1.0], 3) == "▁▁█"
    assert spark([], 3) == "   "


def test_a_device_says_that_it_is_software_and_whose_turn_it_is() -> None:
    seen = board(reply(0, tenant(7, "now\x1b[2J")))
    seen.sample.devices[0].CopyFrom(gpu(holder=7, used_bytes=GIB, promised_ppm=250_000))
    seen.sample.devices.add(uuid="GPU-9", index=9, kind=pb.DEVICE_KIND_NVIDIA, name="H100")
    seen.busy["GPU-9"] = seen.busy["GPU-0"]
    software, real = devices(seen, 4)
    assert software.cells == (
        "0",
        "software",
        "1GiB",
        "8GiB",
        "25%",
        "-",
        "    ",
        "now?[2J",
        "Model 0",
    )
    assert real.cells[:2] == ("9", "nvidia")
    assert real.cells[7] == "-"


def test_what_is_wrong_with_a_tenant_is_marked_and_said() -> None:
    stuck = use(leased_bytes=GIB, over_limit_bytes=GIB, charged_bytes=3 * GIB)
    stuck.residency.stuck = True
    bad = tenant(1, "bad", stuck, mem_limit_bytes=2 * GIB, suspended=True)
    full = tenant(2, "full", use(charged_bytes=2 * GIB), mem_limit_bytes=2 * GIB)
    good = tenant(3, "good", use(charged_bytes=GIB), mem_limit_bytes=2 * GIB)
    seen = board(reply(0, bad, full, good))
    lines = tenants(seen, [bad, full, good], 10, 8)
    assert [line.cells[0] for line in lines] == ["!bad", "!full", " good"]
    assert [line.alarm for line in lines] == [True, True, False]
    assert [line for line in details(seen, bad) if line.startswith("!")] == [
        "! over its memory limit by 1GiB",
        "! some of its memory could not leave",
        "! suspended: its memory is on the host",
    ]
    assert "! its memory is at the limit" in details(seen, full)
    assert not [line for line in details(seen, good) if line.startswith("!")]


@pytest.mark.parametrize(("held", "near"), [(96, False), (97, True)])
def test_near_its_limit_begins_at_97_percent(held: int, near: bool) -> None:
    one = tenant(1, "t", use(charged_bytes=held), mem_limit_bytes=100)
    assert tenants(board(reply(0, one)), [one], 1, 1)[0].alarm is near


def test_details_say_what_the_row_has_no_room_for() -> None:
    before = use(1, launches=100, wait_ns=0, denials=1)
    after = use(1.5, launches=150, wait_ns=S // 4, denials=2, leased_bytes=GIB, peak_bytes=2 * GIB)
    after.residency.swaps = 3
    words = {"processes": 2, "limit_ppm": 500_000, "host_limit_bytes": GIB, "created_s": 1e9 - 9}
    seen = board(
        reply(0, tenant(1, "t\n", before, **words)), reply(1, tenant(1, "t\n", after, **words))
    )
    assert details(seen, seen.sample.tenants[0]) == [
        "t?: standard, user u, GPU 0, processes 2",
        "memory 1GiB, peak 2GiB, refused 2 times, pinned host - of 1GiB",
        "time now 50.0%, cap 50%, waits 25.0% of the time, launches 50/s",
        "swapping: t? on GPU 0: unknown, away 0.0s in all, 3 swaps in 0.0% of the time, stays 0.0s",
    ]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.0, "0%"),
        (0.0004, "0%"),
        (0.0006, "0.1%"),
        (0.382, "38.2%"),
        (0.9996, "100%"),
        (1, "100%"),
    ],
)
def test_shares_fit_their_column(ratio: float, text: str) -> None:
    one = tenant(1, "t", use(used_ratio=ratio))  # type: ignore[arg-type]
    (line,) = tenants(board(reply(0, one)), [one], 1, 1)
    assert line.cells[7] == text
    assert len(text) <= 5


def test_of_whom_nothing_was_measured_yet_no_share_is_shown() -> None:
    one = tenant(1, "t", use(), window_s=0.0)
    (line,) = tenants(board(reply(0, one)), [one], 1, 1)
    assert line.cells[7] == "-"


def test_who_has_no_session_is_shouted() -> None:
    sample = pb.Sample(
        uncovered=[pb.Uncovered(pid=7, name="mi\rner", mem_bytes=GIB, action="seen")]
    )
    assert alarms(sample) == ["UNCOVERED pid 7 mi?ner outside HARP 1GiB seen"]
