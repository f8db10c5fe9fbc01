# SPDX-License-Identifier: Apache-2.0
"""The run that is made of what a tenant was seen to use."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.daemon.recorder import End, How, Recorder, Seen, owner_of
from harp.daemon.spread import Spread
from harp.estimator.job import Job, Outcome, Run
from harp.model import Limits, Policy, Tenant

MIB = 1 << 20
S = 10**9
BEGAN_S = 1e9
JOB = Job(program="p", numbers=(("bs", 32.0),), labels=(("team", "a"),), device_mem_bytes=1 << 30)
T = Tenant(
    tenant_id=1,
    name="t",
    uid=1000,
    root_pid=7,
    root_start=5,
    grant_dir="/g",
    device_uuids=("GPU-1",),
    limits=Limits(mem_bytes=256 * MIB, share_ppm=300_000),
    policy=Policy.WARN,
    created_s=BEGAN_S,
)


def seen(
    at_s: float, mem: int = 0, used_s: float | Mapping[str, float] = 0.0, **more: object
) -> Seen:
    of = used_s if isinstance(used_s, Mapping) else {"GPU-1": used_s}
    told = Seen(
        at_s=BEGAN_S + at_s,
        mem_bytes=mem * MIB,
        peak_bytes=mem * MIB,
        used_ns={uuid: int(s * S) for uuid, s in of.items()},
    )
    return replace(told, **more)  # type: ignore[arg-type]


def run_of(looks: list[Seen], end: End, tenant: Tenant = T, device_bytes: int = 1 << 30) -> Run:
    recorder = Recorder()
    recorder.begin(tenant, JOB)
    for look in looks:
        recorder.see(tenant, look)
    run = recorder.end(tenant, end, device_bytes)
    assert run
    assert recorder.end(tenant, end, device_bytes) is None
    return run


def end(at_s: float, status: int | None = 0, how: How = How.ENDED) -> End:
    return End(BEGAN_S + at_s, how, status)


def test_a_run_says_what_was_seen() -> None:
    """Two minutes: busy half of the time with half of the device, then idle."""
    looks = [
        seen(
            t,
            mem=100 if t < 60 else 50,
            used_s=min(t, 60) / 2,
            host_bytes=(t + 1) * MIB,
            cpu_s=t * 2.0,
        )
        for t in range(1, 121)
    ]
    run = run_of(looks, end(120.5, 3))
    assert (run.job, run.outcome, run.exit_status) == (JOB, Outcome.FAILED, 3)
    assert (run.started_s, run.ended_s) == (BEGAN_S, BEGAN_S + 120.5)
    assert (run.mem_limit_bytes, run.share_ratio, run.attempted_bytes) == (256 * MIB, 0.3, 0)
    assert run.used["gpu_mem_bytes"] == 100 * MIB
    assert run.used["host_mem_bytes"] == 121 * MIB
    assert run.used["duration_s"] == 120.5
    assert run.used["share_ratio"] == pytest.approx(0.5, rel=0.02)
    assert run.used["cpu_cores"] == pytest.approx(2.0, rel=0.02)
    assert run.quantiles["gpu_mem_bytes.p50"] == pytest.approx(50 * MIB, rel=0.02)
    assert run.quantiles["gpu_mem_bytes.p95"] == pytest.approx(100 * MIB, rel=0.02)
    assert run.quantiles["host_mem_bytes.p50"] == pytest.approx(61 * MIB, rel=0.02)


def test_a_run_that_goes_on_is_told_as_far_as_it_came_and_is_none_the_worse() -> None:
    looks = [seen(t, mem=100, used_s=t / 2, cpu_s=t * 2.0) for t in range(1, 120)]
    recorder = Recorder()
    recorder.begin(T, JOB)
    for one in looks[:50]:
        recorder.see(T, one)
    (so_far,) = recorder.going()
    assert (so_far.job, so_far.started_s, so_far.ended_s) == (JOB, BEGAN_S, BEGAN_S + 50)
    assert so_far.used["duration_s"] == 50
    assert so_far.used["gpu_mem_bytes"] == 100 * MIB
    for one in looks[50:]:
        recorder.see(T, one)
    assert recorder.end(T, end(120), 1 << 30) == run_of(looks, end(120))
    assert recorder.going() == []


def test_the_share_is_of_the_looks_with_work_not_of_the_idle_ones() -> None:
    """A second of full use in ten: the device must be its own then."""
    looks = [seen(t, used_s=math.ceil(t / 10)) for t in range(1, 601)]
    assert run_of(looks, end(600)).used["share_ratio"] == pytest.approx(1.0, rel=0.02)


def test_of_several_devices_the_busiest_counts() -> None:
    looks = [seen(t, used_s={"GPU-1": t * 0.2, "GPU-2": t * 0.7}) for t in range(1, 100)]
    assert run_of(looks, end(100)).used["share_ratio"] == pytest.approx(0.7, rel=0.02)


def test_one_that_ends_before_a_second_look_has_its_totals() -> None:
    run = run_of([seen(0.4, mem=64, used_s=0.1)], end(0.4))
    assert run.used["gpu_mem_bytes"] == 64 * MIB
    assert run.used["share_ratio"] == pytest.approx(0.25, rel=0.02)
    assert "host_mem_bytes" not in run.used
    assert "cpu_cores" not in run.used


def test_what_was_never_looked_at_has_a_duration_alone() -> None:
    run = run_of([], end(3.0))
    assert run.used == {"duration_s": 3.0}
    assert run.quantiles == {}


def test_code_and_heaps_count_beside_the_leases() -> None:
    looks = [seen(1, mem=40, peak_bytes=30 * MIB, unleased_bytes=10 * MIB), seen(2, mem=5)]
    assert run_of(looks, end(3)).used["gpu_mem_bytes"] == 40 * MIB


def test_an_arbiter_that_counts_from_zero_takes_nothing_back() -> None:
    looks = [seen(t, mem=80, used_s=t * 0.5, denials=2, cpu_s=1.0) for t in range(1, 31)]
    looks.append(seen(59, mem=10, used_s=2.7, cpu_s=1.0))
    run = run_of(looks, end(59))
    assert run.used["gpu_mem_bytes"] == 80 * MIB
    assert run.used["share_ratio"] == pytest.approx((15 + 2.7) / 59, rel=0.02)
    assert run.attempted_bytes == 82 * MIB


def test_a_clock_that_is_set_back_ends_nothing_before_it_began() -> None:
    looks = [seen(10, used_s=1), seen(-5000, used_s=2), seen(-4999, used_s=3)]
    run = run_of(looks, end(-4998))
    assert run.used["duration_s"] == 0.0
    assert run.ended_s == run.started_s


SIG = signal.Signals


@pytest.mark.parametrize(
    ("status", "how", "denied_s", "outcome"),
    [
        (0, How.ENDED, None, Outcome.DONE),
        (0, How.ENDED, 99, Outcome.DONE),  # its framework coped
        (1, How.ENDED, None, Outcome.FAILED),
        (1, How.ENDED, 99, Outcome.OOM),
        (1, How.ENDED, 10, Outcome.FAILED),  # long before: not for that
        (-SIG.SIGKILL, How.ENDED, 99, Outcome.KILLED),
        (-SIG.SIGTERM, How.ENDED, None, Outcome.KILLED),
        (-SIG.SIGABRT, How.ENDED, 99, Outcome.OOM),
        (-SIG.SIGABRT, How.ENDED, None, Outcome.KILLED),
        (128 + SIG.SIGKILL, How.ENDED, 99, Outcome.KILLED),  # a shell's child was
        (128 + SIG.SIGABRT, How.ENDED, 99, Outcome.OOM),
        (255, How.ENDED, 99, Outcome.OOM),
        (None, How.ENDED, None, Outcome.DONE),
        (None, How.ENDED, 99, Outcome.OOM),
        (None, How.REMOVED, None, Outcome.DONE),
        (None, How.REMOVED, 99, Outcome.OOM),
        (None, How.TAKEN, 99, Outcome.KILLED),
        (None, How.LOST, 99, Outcome.LOST),
    ],
)
def test_how_it_ended(
    status: int | None, how: How, denied_s: float | None, outcome: Outcome
) -> None:
    recorder = Recorder()
    recorder.begin(T, JOB)
    if denied_s is not None:
        recorder.denied(T, BEGAN_S + denied_s, 300 * MIB)
    recorder.see(T, seen(100, mem=200, denials=0 if denied_s is None else 1))
    run = recorder.end(T, end(101, status, how))
    assert run
    assert (run.outcome, run.exit_status) == (outcome, status)
    assert run.attempted_bytes == (0 if denied_s is None else 300 * MIB)


def test_the_last_refusal_says_what_was_attempted() -> None:
    """A framework gives back what it caches, and asks again."""
    recorder = Recorder()
    recorder.begin(T, JOB)
    recorder.denied(T, BEGAN_S + 1, 400 * MIB)
    recorder.denied(T, BEGAN_S + 2, 300 * MIB)
    recorder.see(T, seen(3, mem=250, denials=2))
    run = recorder.end(T, end(4, 1))
    assert run
    assert run.attempted_bytes == 300 * MIB


def test_refused_host_memory_is_no_want_of_the_devices() -> None:
    recorder = Recorder()
    recorder.begin(T, JOB)
    recorder.denied(T, BEGAN_S + 1, 0)
    recorder.see(T, seen(2, mem=10, denials=1))
    run = recorder.end(T, end(3, 1))
    assert run
    assert (run.outcome, run.attempted_bytes) == (Outcome.FAILED, 0)


@pytest.mark.parametrize(
    ("mem", "limit", "status", "elastic"),
    [
        (250, 256, 0, True),
        (200, 256, 0, False),
        (1000, 0, 0, True),
        (100, 0, 0, False),
        (255, 256, 1, False),
    ],
)
def test_who_takes_all_it_is_given_is_elastic_unless_that_was_too_little(
    mem: int, limit: int, status: int, elastic: bool
) -> None:
    tenant = replace(T, limits=Limits(mem_bytes=limit * MIB))
    looks = [seen(1, mem=mem, denials=int(status != 0))]
    assert run_of(looks, end(2, status), tenant).elastic is elastic


LOOKS = st.lists(
    st.builds(
        seen,
        st.floats(0, 500),
        mem=st.integers(0, 1000),
        used_s=st.floats(0, 1000),
        host_bytes=st.none() | st.integers(0, 1 << 40),
        cpu_s=st.none() | st.floats(0, 1e5),
        denials=st.integers(0, 3),
        unleased_bytes=st.integers(0, 1 << 20),
    ),
    max_size=20,
)


@given(LOOKS, LOOKS)
def test_a_harpd_that_goes_on_from_notes_makes_the_same_run(
    before: list[Seen], after: list[Seen]
) -> None:
    whole = run_of([*before, *after], end(600))
    first, second = Recorder(), Recorder()
    first.begin(T, JOB)
    for look in before:
        first.see(T, look)
    notes = first.notes()
    assert "argv" not in json.dumps(notes)
    assert second.resume(notes, [T]) == {}
    second.begin(T, Job())  # as of one that is found: what it runs is not known by now
    assert second.job_of(T) == JOB
    for look in after:
        second.see(T, look)
    assert second.end(T, end(600), 1 << 30) == whole


@given(LOOKS)
def test_every_figure_is_one(looks: list[Seen]) -> None:
    run = run_of(looks, end(600))
    for name, value in [*run.used.items(), *run.quantiles.items()]:
        assert 0 <= value < math.inf, name
    assert run.used.get("share_ratio", 0) <= 1.01
    assert run.ended_s >= run.started_s


def test_who_is_gone_when_harpd_comes_back_is_lost_with_what_it_needed_by_then() -> None:
    first, second = Recorder(), Recorder()
    first.begin(T, JOB)
    first.see(T, seen(50, mem=77, used_s=10))
    other = replace(T, created_s=BEGAN_S + 99)  # its number came again
    (run,) = second.resume(first.note_of(T), [other]).values()
    assert (run.outcome, run.exit_status, run.job) == (Outcome.LOST, None, JOB)
    assert run.used["gpu_mem_bytes"] == 77 * MIB
    assert run.used["duration_s"] == 50
    assert second.job_of(other) is None


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"job": 1}', '{"job": {"numbers": [1]}}'])
def test_a_note_that_cannot_be_read_says_nothing(note: str) -> None:
    recorder = Recorder()
    assert recorder.resume({"1@5.0": note}, []) == {}


def test_nothing_is_said_of_tenants_that_are_not_watched() -> None:
    recorder = Recorder()
    recorder.see(T, seen(1))
    recorder.denied(T, BEGAN_S, 1)
    assert recorder.end(T, end(1)) is None
    assert recorder.notes() == {}


@given(st.lists(st.floats(0, 1e15), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    exact = sorted(values)[max(0, math.ceil(q * len(values) - 1e-9) - 1)]
    found = spread.quantile(q)
    assert found is not None
    assert found == pytest.approx(exact, rel=0.011, abs=1e-9)
    assert Spread().quantile(q) is None


@pytest.mark.parametrize(
    ("labels", "owner"),
    [
        (
            {"namespace": "ml", "pod": "train-7f9c6d5b8d-x2x4z", "container": "main"},
            "ml/Pod/train/main",
        ),
        ({"namespace": "ml", "pod": "nightly-28391234-abc9z"}, "ml/Pod/nightly"),
        ({"namespace": "ml", "pod": "db-0"}, "ml/Pod/db"),
        ({"namespace": "ml", "pod": "llama-serve"}, "ml/Pod/llama-serve"),
        ({"pod": "one"}, "Pod/one"),
        ({}, ""),
    ],
)
def test_pods_of_one_maker_have_one_owner(labels: dict[str, str], owner: str) -> None:
    assert owner_of(labels) == owner
