# SPDX-License-Identifier: Apache-2.0
"""A device's totals never go back, whoever ends or begins again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harp.metrics import Total, Totals
from harp.model import Use


def _use(seconds: int) -> Use:
    return Use(used_ns=seconds, wait_ns=2 * seconds, launches=3 * seconds, denials=4 * seconds)


def _total(seconds: int) -> Total:
    return Total(seconds, 2 * seconds, 3 * seconds, 4 * seconds)


def _seen(*steps: dict[tuple[int, str], int]) -> Totals:
    totals = Totals()
    totals.see((), {}, 0)
    for step in steps:
        totals.see({tenant for tenant, _ in step}, {key: _use(n) for key, n in step.items()}, 0)
    return totals


def test_what_tenants_used_is_added_up_by_device() -> None:
    totals = _seen({(1, "a"): 5, (2, "a"): 7, (2, "b"): 1}, {(1, "a"): 6, (2, "a"): 7, (2, "b"): 4})
    assert totals.of == {"a": _total(13), "b": _total(4)}


def test_what_a_tenant_used_stays_when_it_ends() -> None:
    assert _seen({(1, "a"): 5}, {}).of == {"a": _total(5)}


def test_a_number_that_was_in_no_picture_meanwhile_is_counted_from_zero() -> None:
    assert _seen({(1, "a"): 5}, {}, {(1, "a"): 7}).of == {"a": _total(5 + 7)}


def test_a_new_arbiter_begins_at_zero_and_the_total_does_not() -> None:
    assert _seen({(1, "a"): 5}, {(1, "a"): 2}, {(1, "a"): 4}).of == {"a": _total(9)}


def test_one_count_that_went_back_tells_that_all_did() -> None:
    totals = _seen({(1, "a"): 5})
    totals.see([1], {(1, "a"): Use(used_ns=6, wait_ns=1, launches=1, denials=0)}, 0)
    assert totals.of["a"] == Total(11, 11, 16, 20)


def test_what_was_used_before_the_first_picture_is_not_counted() -> None:
    totals = Totals()
    totals.see([1], {(1, "a"): _use(100)}, 0)
    assert totals.of == {}
    totals.see([1, 2], {(1, "a"): _use(101), (2, "a"): _use(7)}, 0)
    assert totals.of == {"a": _total(8)}


def test_a_number_that_is_another_tenants_now_is_counted_from_zero() -> None:
    totals = _seen({(1, "a"): 5, (2, "a"): 1})
    totals.forget(1)
    totals.see([1, 2], {(1, "a"): _use(7), (2, "a"): _use(1)}, 0)
    assert totals.of == {"a": _total(5 + 1 + 7)}


def test_a_tenant_that_was_on_another_device_meanwhile_is_not_counted_twice() -> None:
    totals = _seen({(1, "a"): 5}, {(1, "b"): 2}, {(1, "a"): 6, (1, "b"): 2})
    assert totals.of == {"a": _total(6), "b": _total(2)}


def test_a_tenant_was_active_when_a_picture_last_showed_that_it_used_something() -> None:
    totals = Totals()
    idle = Use(used_ns=1)
    totals.see([1, 2], {(1, "a"): idle, (2, "a"): idle}, 10)
    assert totals.active_s == {}  # of what came before nobody knows when it was
    totals.see([1, 2], {(1, "a"): Use(used_ns=2), (2, "a"): idle}, 20)
    totals.see([1, 2], {(1, "a"): Use(used_ns=2), (2, "a"): Use(used_ns=1, launches=1)}, 30)
    assert totals.active_s == {1: 20, 2: 30}
    totals.see([1, 2], {(1, "a"): Use(used_ns=2), (2, "a"): Use(used_ns=1, launches=1)}, 40)
    assert totals.active_s == {1: 20, 2: 30}


def test_who_only_waits_or_is_refused_is_not_active() -> None:
    totals = _seen({(1, "a"): 0})
    totals.see([1], {(1, "a"): Use(wait_ns=5, denials=2)}, 20)
    assert totals.active_s == {}


def test_a_new_arbiter_makes_nobody_active_and_the_end_of_a_tenant_forgets_it() -> None:
    totals = _seen({(1, "a"): 0, (2, "a"): 0})
    totals.see([1, 2], {(1, "a"): _use(5), (2, "a"): _use(5)}, 20)
    totals.see([1, 2], {(1, "a"): _use(0), (2, "a"): _use(0)}, 30)
    assert totals.active_s == {1: 20, 2: 20}
    totals.forget(1)
    assert totals.active_s == {2: 20}
    totals.see([], {}, 40)
    assert totals.active_s == {}


@given(
    st.lists(
        st.dictionaries(
            st.tuples(st.integers(1, 3), st.sampled_from("ab")), st.integers(0, 9), max_size=4
        ),
        max_size=12,
    )
)
def test_no_total_ever_goes_back(steps: list[dict[tuple[int, str], int]]) -> None:
    totals, before = Totals(), dict[str, Total]()
    for step in steps:
        totals.see({tenant for tenant, _ in step}, {key: _use(n) for key, n in step.items()}, 0)
        for uuid, total in before.items():
            now = totals.of[uuid]
            assert now.used_ns >= total.used_ns
            assert now.launches >= total.launches
        before = dict(totals.of)
