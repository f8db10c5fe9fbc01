# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.advise: what is said of a job, from which runs, and what keeps it honest."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from job_worlds import DAY_S, DEVICE, GIB, job, memory, run

from harp.estimator.advise import AdviseConfig, Adviser
from harp.estimator.job import TARGETS, Job, Outcome, Run

_USED = {
    "gpu_mem_bytes": 4 * GIB,
    "share_ratio": 0.3,
    "host_mem_bytes": 2 * GIB,
    "cpu_cores": 1.5,
    "duration_s": 100.0,
}


#: less than a device, with a margin more than that
_NEARLY_ALL = (70 * GIB, 77 * GIB, 72 * GIB, 75 * GIB, 76 * GIB)


def _taught(
    of: Job, *peaks: float, config: AdviseConfig | None = None, **fields: object
) -> Adviser:
    adviser = Adviser(config)
    for at, peak in enumerate(peaks):
        adviser.learn(run(of, peak, 1000.0 + at, **fields))
    return adviser


def test_of_all_targets_something_is_said() -> None:
    unknown = Adviser().ask(job(), 0.0)
    assert tuple(unknown) == TARGETS
    assert {need.known for need in unknown.values()} == {False}
    assert [need.bound for need in unknown.values()] == [24 * GIB, 1.0, None, None, None]
    assert {need.level for need in unknown.values()} == {"request"}
    assert all("no run of a job like it" in need.reason for need in unknown.values())
    assert unknown["duration_s"].reason.startswith("unknown: ")


def test_three_runs_of_all_targets_are_enough() -> None:
    adviser = Adviser()
    for at in range(3):
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=_USED))
    needs = adviser.ask(job(), 2000.0)
    assert {need.known for need in needs.values()} == {True}
    assert {need.level for need in needs.values()} == {"signature"}
    assert {need.runs for need in needs.values()} == {3}
    assert [need.bound for need in needs.values()] == pytest.approx(
        [4.25 * GIB, 0.34, 2.3 * GIB, 1.725, 115.0]
    )
    assert [need.typical for need in needs.values()] == pytest.approx(list(_USED.values()))
    assert [need.confidence for need in needs.values()] == [0.98, 0.99, 0.98, 0.95, 0.90]
    assert all(need.bound is not None and "at 9" in need.reason for need in needs.values())


def test_small_needs_have_a_margin_of_their_own() -> None:
    adviser = Adviser()
    used = {"share_ratio": 0.01, "host_mem_bytes": 1e6, "cpu_cores": 0.01}
    for at in range(3):
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=used))
    needs = adviser.ask(job(), 2000.0)
    assert needs["share_ratio"].bound == pytest.approx(0.05)
    assert needs["host_mem_bytes"].bound == pytest.approx(1e6 + (64 << 20))
    assert needs["cpu_cores"].bound == pytest.approx(0.11)


def test_two_runs_are_not_enough() -> None:
    said = memory(_taught(job(), 4 * GIB, 4 * GIB), job())
    assert (said.known, said.bound, said.level) == (False, 24 * GIB, "request")
    assert said.reason == "the request, 24 GiB: 2 runs of it, 3 that agree or 5 are needed"


@pytest.mark.parametrize(("other", "known"), [(4.19, True), (4.25, False)])
def test_three_runs_must_agree_within_a_twentieth(other: float, known: bool) -> None:
    said = memory(_taught(job(), 4 * GIB, other * GIB, 4 * GIB), job())
    assert said.known is known
    if known:
        assert said.bound == pytest.approx((other + 0.25) * GIB)
        assert "largest of 3 runs that agree 4.19 GiB + 256 MiB" in said.reason


def test_five_runs_that_do_not_agree_are_enough() -> None:
    said = memory(_taught(job(), *(g * GIB for g in (4, 5, 6, 4, 5))), job())
    assert said.bound == pytest.approx(6 * GIB * 1.15 + (256 << 20))
    assert "not calibrated" in said.reason
    restless = memory(_taught(job(), *(g * GIB for g in (9, 5, 4, 4, 5))), job())
    assert restless.bound == pytest.approx(9 * GIB * 1.15 + (256 << 20))  # of six, not of three


def test_another_users_program_counts_within_an_image_only() -> None:
    other = job(user="v")
    assert memory(_taught(other, *[4 * GIB] * 5), job()).level == "framework"
    same = memory(_taught(dataclasses.replace(other, image="i"), *[4 * GIB] * 5), job(image="i"))
    assert (same.level, same.runs) == ("program", 5)
    assert same.bound == pytest.approx(4.6 * GIB + (256 << 20))


def test_enough_residuals_take_the_place_of_margins() -> None:
    adviser, rng = Adviser(), random.Random(1)
    jobs = [job(f"j{number}") for number in range(10)]
    for at in range(12):
        for number, one in enumerate(jobs):
            adviser.learn(run(one, (number + 2) * GIB * rng.uniform(0.99, 1.01), 1000.0 + at))
    said = memory(adviser, jobs[5])
    assert "residuals)" in said.reason
    assert "not calibrated" not in said.reason
    assert 7 * GIB < (said.bound or 0) < 7.5 * GIB


def test_a_new_job_is_not_granted_much_less_than_it_asks_for() -> None:
    """What others needed is no reason (research: G8); not even where all needed little."""
    said = memory(_taught(job("other"), *[2 * GIB] * 9), job("new"))
    assert (said.known, said.level) == (True, "framework")
    assert said.bound == pytest.approx(0.9 * 24 * GIB)
    assert "90% of the request" in said.reason
    lots = [23 * GIB] * 2 + [2 * GIB] * 8  # the last few are small, p95 of all is not
    assert (memory(_taught(job("other"), *lots), job("new")).bound or 0) >= 23 * GIB


def test_a_job_whose_program_is_not_known_is_always_a_new_one() -> None:
    """Three runs that agree are of one user and one image, but of what?"""
    nameless = dataclasses.replace(job(), program="", image="i")
    assert not memory(_taught(nameless, *[2 * GIB] * 3), nameless).known
    said = memory(_taught(nameless, *[2 * GIB] * 9), nameless)
    assert said.level == "user"
    assert said.bound == pytest.approx(0.9 * 24 * GIB)


def test_what_shrinks_is_not_taken_to_go_on_shrinking() -> None:
    adviser = Adviser()
    for at in range(12):
        for number in range(10):
            adviser.learn(run(job(f"j{number}"), 20 * GIB * 0.9**at, 1000.0 + at))
    last_two = 20 * GIB * 0.9**10
    assert (memory(adviser, job("j3")).bound or 0) >= last_two


def test_what_others_of_it_needed_is_granted_at_least() -> None:
    """Another user's runs of the program, where the pool is of jobs that shrink."""
    adviser = Adviser()
    for at in range(12):
        for number in range(10):
            one = job(f"j{number}", image="i")
            adviser.learn(run(one, 20 * GIB * 0.9**at, 1000.0 + at))
    said = memory(adviser, job("j3", image="i", user="v"))
    assert said.level == "program"
    assert (said.bound or 0) >= 20 * GIB * 0.9**9


def test_one_that_takes_a_whole_device_is_given_less() -> None:
    of = job(asked=0)
    said = memory(_taught(of, *[80 * GIB] * 3, elastic=True), of)
    assert said.bound == pytest.approx(72 * GIB)


def test_what_grows_is_taken_to_go_on_growing() -> None:
    said = memory(_taught(job(), 20 * GIB, 20.45 * GIB, 20.9 * GIB), job())
    assert said.bound == pytest.approx(1.02 * 20.9 * GIB + 0.45 * GIB)
    assert "it grows by 460.8 MiB a run" in said.reason
    steady = memory(_taught(job(), 20 * GIB, 20.9 * GIB, 20.45 * GIB), job())
    assert steady.bound == pytest.approx(1.02 * 20.9 * GIB)


def test_a_new_job_with_runs_of_its_own_is_given_what_they_needed() -> None:
    adviser = _taught(job("other"), *[2 * GIB] * 9)
    adviser.learn(run(job("new"), 23.5 * GIB))
    assert (memory(adviser, job("new")).bound or 0) >= 23.5 * GIB


def _sweep(batch: float) -> Job:
    return job(f"b{batch:g}", shape="train", numbers=(("batch-size", batch),))


def test_numbers_outside_of_what_was_seen_are_not_answered_for() -> None:
    adviser = Adviser()
    for at, batch in enumerate((8, 16, 32, 64, 8, 16)):
        adviser.learn(run(_sweep(batch), batch / 8 * GIB, 1000.0 + at))
    within = memory(adviser, _sweep(24))
    assert (within.level, within.runs) == ("shape", 6)
    assert within.bound is not None
    assert 8 * GIB < within.bound < 10 * GIB  # as the largest within, not as the last
    outside = memory(adviser, _sweep(512))
    assert outside.level != "shape"
    assert outside.bound == pytest.approx(0.9 * 24 * GIB)
    lines = adviser.explain(_sweep(512), 2000.0)
    assert any("batch-size 512 is outside 8..64 seen" in line for line in lines)


def test_a_shapes_bound_is_the_largest_of_the_runs_that_its_numbers_are_of() -> None:
    adviser = Adviser()
    for at, batch in enumerate([64] + [8] * 11 + [16] * 4):
        adviser.learn(run(_sweep(batch), batch / 8 * GIB, 1000.0 + at))
    said = memory(adviser, _sweep(12))
    assert said.level == "shape"
    assert (said.bound or 0) >= 8 * GIB  # though the last runs were all small
    adviser.learn(run(_sweep(16), 2 * GIB, 1100.0))
    # The one of 64 is among the last 16 no more: neither the bound nor the numbers are of it.
    assert (memory(adviser, _sweep(12)).bound or 0) < 8 * GIB
    assert memory(adviser, _sweep(32)).level != "shape"


def test_a_request_is_the_most_and_then_the_device() -> None:
    asks_little = job(asked=3 * GIB)
    adviser = _taught(asks_little, *[4 * GIB] * 3)
    said = memory(adviser, asks_little)
    assert (said.bound, said.known) == (3 * GIB, True)
    assert "the request at most" in said.reason
    assert said.typical == 3 * GIB
    asks_nothing = job(asked=0)
    adviser = _taught(asks_nothing, *_NEARLY_ALL)
    said = memory(adviser, asks_nothing)
    assert said.bound == DEVICE
    assert "the device at most" in said.reason


def test_who_opts_out_is_given_more_than_is_asked_for() -> None:
    config = AdviseConfig(above_request=True)
    of = job(asked=3 * GIB)
    assert memory(_taught(of, *[4 * GIB] * 3, config=config), of).bound == pytest.approx(4.25 * GIB)
    assert memory(Adviser(config), of).bound == 3 * GIB  # unknown is the request all the same
    over = memory(_taught(of, *_NEARLY_ALL, config=config), of)
    assert over.bound == DEVICE


def test_without_request_and_device_unknown_is_unknown() -> None:
    said = memory(Adviser(), Job("p", user="u"))
    assert (said.bound, said.known) == (None, False)
    assert said.reason.startswith("unknown: ")


def _oom(of: Job, limit: float, attempted: float, at_s: float = 5000.0) -> Run:
    return run(
        of,
        limit,
        at_s,
        outcome=Outcome.OOM,
        mem_limit_bytes=int(limit),
        attempted_bytes=int(attempted),
    )


def test_one_refused_is_given_half_more_and_then_its_request() -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    adviser.learn(_oom(job(), 4.25 * GIB, 4.5 * GIB))
    said = memory(adviser, job(), 6000.0)
    assert said.bound == pytest.approx(4.25 * 1.5 * GIB)
    assert "refused memory" in said.reason
    adviser.learn(_oom(job(), 6.375 * GIB, 7 * GIB))
    assert memory(adviser, job(), 6000.0).bound == 24 * GIB


def test_one_refused_is_given_what_it_tried() -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    adviser.learn(_oom(job(), 4.25 * GIB, 12 * GIB))
    assert memory(adviser, job(), 6000.0).bound == pytest.approx(12.25 * GIB)


def test_a_refusal_is_forgotten_after_five_clean_runs() -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    adviser.learn(_oom(job(), 4.25 * GIB, 4.5 * GIB))
    for at in range(5):
        assert (memory(adviser, job(), 6000.0).bound or 0) >= 6.375 * GIB, at
        adviser.learn(run(job(), 4 * GIB, 6000.0 + at))
    assert memory(adviser, job(), 6100.0).bound == pytest.approx(4.25 * GIB)
    state = adviser.keys.get(("signature", "a", "u"))
    assert state is not None
    assert state.trouble is None


def test_one_refused_before_any_run_ended_is_given_no_less_than_its_request() -> None:
    adviser = _taught(job())
    adviser.learn(_oom(job(), 24 * GIB, 30 * GIB))
    said = memory(adviser, job(), 6000.0)
    assert (said.bound, said.known) == (24 * GIB, False)
    assert said.reason == "the request, 24 GiB: a run was refused memory"
    opted = Adviser(AdviseConfig(above_request=True))
    opted.learn(_oom(job(), 24 * GIB, 30 * GIB))
    assert memory(opted, job(), 6000.0).bound == pytest.approx(36 * GIB)


def test_a_refusal_of_one_is_no_matter_of_anothers() -> None:
    adviser = _taught(job("a"), *[4 * GIB] * 3)
    adviser.learn(_oom(job("b"), 4 * GIB, 20 * GIB))
    assert memory(adviser, job("a"), 6000.0).bound == pytest.approx(4.25 * GIB)
    nobody = Job(device_mem_bytes=DEVICE)
    adviser.learn(_oom(nobody, 4 * GIB, 20 * GIB))
    assert not memory(adviser, nobody, 6000.0).reason.count("refused")


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.KILLED, Outcome.LOST])
def test_one_that_did_not_end_well_is_a_lower_bound_and_no_duration(outcome: Outcome) -> None:
    adviser = Adviser()
    for at in range(3):
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=_USED))
    before = adviser.ask(job(), 2000.0)
    short = {"gpu_mem_bytes": GIB, "duration_s": 1.0, "cpu_cores": 0.1, "host_mem_bytes": 1.0}
    for at in range(5):
        adviser.learn(run(job(), 0.0, 1500.0 + at, used=short, outcome=outcome))
    assert adviser.ask(job(), 2000.0) == before
    adviser.learn(run(job(), 9 * GIB, 1600.0, outcome=outcome))
    after = memory(adviser, job())
    assert after.bound == pytest.approx(9.25 * GIB)
    assert after.runs == 3
    assert "did not end well" in after.reason


def test_one_that_takes_all_it_is_given_teaches_no_need() -> None:
    adviser = Adviser()
    for at in range(2):
        adviser.learn(run(job(), 23.9 * GIB, 1000.0 + at, mem_limit_bytes=24 << 30))
    assert not memory(adviser, job()).known
    adviser.learn(run(job(), 23.9 * GIB, 1003.0, mem_limit_bytes=24 << 30))
    said = memory(adviser, job())
    assert said.bound == pytest.approx(21.6 * GIB)
    assert said.runs == 3
    assert "takes all it is given" in said.reason
    assert memory(adviser, job("other")).bound == 24 * GIB  # no need of anybody's
    still = _taught(job(), *[23.9 * GIB] * 3, config=AdviseConfig(probe=False), elastic=True)
    assert not memory(still, job()).known


def test_a_limit_made_from_history_does_not_look_as_if_all_was_taken() -> None:
    adviser = _taught(job(), *[16 * GIB] * 3)
    for at in range(9):
        said = memory(adviser, job())
        assert said.bound == pytest.approx(16.32 * GIB, rel=0.02)
        limit = int(said.bound or 0)
        adviser.learn(run(job(), 16 * GIB, 1100.0 + at, mem_limit_bytes=limit))


def test_one_that_used_all_of_its_share_would_have_used_more() -> None:
    adviser = Adviser()
    for at in range(3):
        used = {"share_ratio": 0.3}
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=used, share_ratio=0.3))
    assert adviser.ask(job(), 2000.0)["share_ratio"].bound == pytest.approx(0.49)


def test_what_depends_on_the_device_is_asked_of_runs_on_it() -> None:
    adviser = Adviser()
    for at in range(3):
        adviser.learn(run(job(gpu="fast"), 0.0, 1000.0 + at, used=_USED))
    needs = adviser.ask(job(gpu="slow"), 2000.0)
    assert {target for target, need in needs.items() if need.known} == {
        "gpu_mem_bytes",
        "host_mem_bytes",
        "cpu_cores",
    }


def test_keys_not_seen_for_long_are_dropped() -> None:
    adviser = Adviser()
    for at in range(3):
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=_USED))
    adviser.learn(_oom(job(), 4 * GIB, 5 * GIB, 1004.0))
    late_s = 1004.0 + 91 * DAY_S
    assert not memory(adviser, job(), late_s).known
    assert memory(adviser, job(), late_s - 2 * DAY_S).known
    adviser.learn(run(job("b"), 1 * GIB, late_s))
    # ("signature", a); what b is like stays: framework and cluster.
    assert adviser.prune(late_s) == 1
    assert len(adviser) == 3
    assert ("signature", "a", "u") not in adviser.keys
    state = adviser.keys.get(("signature", "b", "u"))
    assert state is not None
    assert {target for target, _ in state.pasts} == {"gpu_mem_bytes"}
    assert adviser.prune(late_s) == 0


def test_one_that_runs_beyond_its_bound_counts_before_it_ends() -> None:
    adviser, rng = Adviser(), random.Random(3)
    for at in range(120):
        used = {"duration_s": 100 * rng.uniform(0.5, 1.5)}
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=used))
    before = adviser.ask(job(), 2000.0)["duration_s"].bound
    assert before is not None
    going = [run(job(), 0.0, 2000.0, started_s=1900.0 + at, used={}) for at in range(30)]
    for one in going:
        adviser.still(one)
    assert adviser.ask(job(), 2000.0)["duration_s"].bound == before  # none is beyond yet
    beyond = [dataclasses.replace(one, used={"duration_s": before + 1}) for one in going]
    for one in beyond * 3:
        adviser.still(one)
    after = adviser.ask(job(), 2000.0)["duration_s"]
    assert "143 residuals" in after.reason  # 113, and each of those that run once
    raised = after.bound
    assert raised is not None
    assert raised > 1.5 * before
    for one in beyond:
        adviser.learn(one)
    ended = adviser.ask(job(), 2000.0)["duration_s"].bound
    assert ended is not None
    assert before < ended < 1.2 * before  # what they came to stands for them


def test_a_runs_end_is_held_against_what_was_said_at_its_begin() -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    one = run(job(), 5 * GIB, 2000.0, started_s=1500.0)
    adviser.still(dataclasses.replace(one, used={}, ended_s=1500.0))
    adviser.learn(run(job(), 9 * GIB, 1600.0, started_s=1590.0))
    assert (memory(adviser, job()).bound or 0) > 9 * GIB
    adviser.learn(one)
    assert (adviser.records["gpu_mem_bytes"].runs, adviser.records["gpu_mem_bytes"].held) == (2, 0)
    # One whose end is never told is not remembered for ever.
    adviser.still(dataclasses.replace(one, used={}, ended_s=1500.0, started_s=1501.0))
    adviser.prune(1500.0 + 100 * DAY_S)
    assert not adviser._running


def test_what_is_told_late_does_not_make_a_key_older() -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    adviser.learn(run(job(), 4 * GIB, 100 * DAY_S))
    adviser.learn(run(job(), 4 * GIB, 2000.0, outcome=Outcome.LOST))
    assert memory(adviser, job(), 101 * DAY_S).known


def test_numbers_of_a_run_that_did_not_end_well_were_not_seen() -> None:
    adviser = Adviser()
    for at in range(6):
        adviser.learn(run(_sweep(8), GIB, 1000.0 + at))
    adviser.learn(run(_sweep(512), 3 * GIB, 1100.0, outcome=Outcome.FAILED))
    assert memory(adviser, _sweep(64)).level != "shape"


def test_one_that_holds_more_than_was_said_raises_the_next_bound_at_once() -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    adviser.still(run(job(), 4 * GIB, 2000.0))
    adviser.still(run(job(), 8 * GIB, 2010.0, started_s=1900.0))
    assert memory(adviser, job()).bound == pytest.approx(8.25 * GIB)


def test_fixed_margins_that_hold_too_seldom_are_doubled() -> None:
    adviser, rng = Adviser(), random.Random(4)
    for at in range(80):
        used = {"host_mem_bytes": GIB * rng.choice([1.0, 1.0, 1.0, 1.3])}
        adviser.learn(run(job(), 0.0, 1000.0 + at, used=used))
    record = adviser.records["host_mem_bytes"]
    assert record.below(0.98)
    said = adviser.ask(job(), 2000.0)["host_mem_bytes"]
    assert said.bound == pytest.approx(1.3 * 1.3 * GIB, rel=0.02)
    assert "margin doubled" in said.reason


def test_how_bounds_did_is_recorded() -> None:
    adviser = _taught(job(), *[4 * GIB] * 5, 9 * GIB)
    record = adviser.records["gpu_mem_bytes"]
    assert (record.runs, record.held) == (3, 2)
    assert record.asked == 3 * 24 * GIB
    assert record.granted == pytest.approx(3 * 4.25 * GIB)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_what_cannot_be_is_not_learned(value: float) -> None:
    adviser = _taught(job(), *[4 * GIB] * 3)
    before = adviser.ask(job(), 2000.0)
    adviser.learn(run(job(), value, 1900.0, used=dict.fromkeys(TARGETS, value)))
    assert adviser.ask(job(), 2000.0) == before


def test_it_is_explained_where_an_answer_comes_from() -> None:
    adviser = _taught(job(), 4 * GIB, 4.1 * GIB, 4 * GIB)
    adviser.learn(_oom(job(), 4.35 * GIB, 4.5 * GIB))
    text = "\n".join(adviser.explain(job(), 5000.0 + 3600))
    assert "gpu_mem_bytes: 6.525 GiB at 98% = largest of 3 runs that agree 4.1 GiB" in text
    assert "key signature a u: 3 runs, last seen 1.0 h ago, GPU memory p50 4 GiB" in text
    assert "key cluster: 3 runs" in text
    assert "its last 3 runs, oldest first: 4 GiB, 4.1 GiB, 4 GiB" in text
    assert "refusals: next bound at least 6.525 GiB" in text
    assert "gpu_mem_bytes so far: 0 of 1 bounds held (0.0%)" in text
    assert "refusals: none remembered" in "\n".join(adviser.explain(job("b"), 5000.0))
