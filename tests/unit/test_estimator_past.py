# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.past, keys, guard: few runs kept whole, who is like whom, what is not believed."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_worlds import GIB, job, run

from harp.estimator.frozen import Reader, Writer
from harp.estimator.guard import Box, Peak, Trouble, noise_bytes, peak
from harp.estimator.job import Job, Outcome
from harp.estimator.keys import SIMILAR, keys, on_device
from harp.estimator.past import KEPT, Past
from harp.estimator.sketch import Decayed

_FULL = Job("p", "s", user="u", image="i", framework="f", owner="o", gpu="g")


@given(
    st.lists(st.floats(1, 1e11), min_size=1, max_size=90),
    st.sampled_from([0.0, 0.5, 0.9, 0.95]),
    st.booleans(),
)
def test_a_quantile_is_the_sketchs(values: list[float], q: float, timed: bool) -> None:
    """Before there is a sketch, and after: nothing jumps."""
    past, sketch = Past(20.0, timed=timed), Decayed(20.0)
    for at, value in enumerate(values):
        past.add(value, at if timed else -1.0)
        sketch.add(value, at)
    assert past.quantile(q) == pytest.approx(sketch.quantile(q), rel=0.0201)
    assert list(past.last) == values[-KEPT:]
    assert past.runs == len(values)


def test_few_runs_are_kept_whole() -> None:
    past = Past(20.0, timed=False)
    assert past.quantile(0.5) is None
    assert past.spread(3) == 0.0
    for value in (1.0, 100.003, 50.0):
        past.add(value)
    assert past.quantile(1.0) == 100.003
    tied = Past(20.0, timed=False)
    for value in (2.0, 1.0, 1.0):
        tied.add(value)
    assert tied.quantile(1.0) == 2.0
    assert past.spread(2) == pytest.approx(0.5, abs=0.001)
    assert past.spread(3) == pytest.approx(0.99, abs=0.001)


def test_what_is_older_weighs_less_from_the_first_run_on() -> None:
    past = Past(1.0, timed=True)
    for at in range(8):
        past.add(100.0 if at < 4 else 1.0, float(at))
    assert past.quantile(0.9) == 1.0  # four half-lives: 15 of 16 parts


def test_what_is_older_weighs_less_by_runs_too() -> None:
    """Whatever their times: three half-lives leave the first 16 a twentieth of the weight."""
    past = Past(20.0, timed=False)
    for at in range(76):
        past.add(100.0 if at < 16 else 1.0, -float(at))
    assert past.quantile(0.9) == pytest.approx(1.0, rel=0.01)


def test_memory_of_a_key_is_bounded() -> None:
    """However many runs it has, and however far apart they are."""
    past = Past(20.0, timed=False)
    for number in range(2_000):
        past.add(10.0 ** (number % 37 - 18), 0.0)
    assert len(past.last) == KEPT
    assert past._sketch is not None
    assert len(past._sketch._old._store.bins) <= 2048


def test_keys_are_the_most_alike_first() -> None:
    assert keys(_FULL) == [
        ("signature", "p", "u"),
        ("program", "p", "i"),
        ("shape", "s", "u"),
        ("owner", "o"),
        ("user", "u", "i"),
        ("image", "i"),
        ("framework", "f"),
        ("cluster",),
    ]


@pytest.mark.parametrize(
    ("without", "gone"),
    [
        ("program", {"signature", "program"}),
        ("shape", {"shape"}),
        ("user", {"signature", "shape", "user"}),
        ("image", {"program", "user", "image"}),
        ("framework", {"framework"}),
        ("owner", {"owner"}),
    ],
)
def test_a_key_with_an_empty_part_is_left_out(without: str, gone: set[str]) -> None:
    """Among them: the same words outside of an image are not the same program of another user."""
    left = keys(dataclasses.replace(_FULL, **{without: ""}))  # type: ignore[arg-type]
    assert {key[0] for key in keys(_FULL)} - {key[0] for key in left} == gone


def test_only_keys_of_one_program_are_as_good_as_its_own() -> None:
    assert [key[0] for key in keys(_FULL) if key[0] in SIMILAR] == [
        "signature",
        "program",
        "shape",
        "owner",
    ]


def test_what_depends_on_the_device_is_by_device() -> None:
    other = dataclasses.replace(_FULL, gpu="h")
    assert on_device(("cluster",), _FULL) != on_device(("cluster",), other)
    assert on_device(("cluster",), _FULL)[:-1] == ("cluster",)


def _box(*values: float) -> Box:
    box = Box()
    for value in values:
        box.add((("batch-size", value), ("layers", 4.0)))
    return box


@pytest.mark.parametrize(
    ("description", "numbers", "words"),
    [
        ("within", (("batch-size", 32.0), ("layers", 4.0)), ""),
        ("at its edge", (("batch-size", 64.0), ("layers", 4.0)), ""),
        (
            "above",
            (("batch-size", 512.0), ("layers", 4.0)),
            "batch-size 512 is outside 8..64 seen",
        ),
        ("below", (("batch-size", 4.0), ("layers", 4.0)), "batch-size 4 is outside 8..64 seen"),
        (
            "the second",
            (("batch-size", 8.0), ("layers", 5.0)),
            "layers 5 is outside 4, all that was seen",
        ),
        ("another name", (("steps", 8.0), ("layers", 4.0)), "steps is not in all runs seen"),
        ("one fewer", (("batch-size", 8.0),), "runs seen had more numbers"),
        (
            "one more",
            (("batch-size", 8.0), ("layers", 4.0), ("x", 1.0)),
            "x is not in all runs seen",
        ),
    ],
)
def test_a_box_speaks_of_what_it_has_seen(
    description: str, numbers: tuple[tuple[str, float], ...], words: str
) -> None:
    found = _box(8, 64, 16).outside(dataclasses.replace(_FULL, numbers=numbers))
    assert found == words, description


def test_an_empty_box_has_seen_nothing() -> None:
    numbers = (("batch-size", 8.0),)
    assert Box().outside(dataclasses.replace(_FULL, numbers=numbers))


def test_a_box_is_of_the_runs_that_a_bound_is_made_of() -> None:
    box = _box(512, *[8.0] * KEPT)
    assert box.outside(dataclasses.replace(_FULL, numbers=(("batch-size", 64.0), ("layers", 4.0))))


def _seen(*values: float) -> Past:
    past = Past(20.0, timed=False)
    for value in values:
        past.add(value)
    return past


@pytest.mark.parametrize(
    ("description", "fields", "past", "how", "read"),
    [
        ("room to spare", {"mem_limit_bytes": 8 * GIB}, None, Peak.NEED, 4),
        ("no limit", {}, None, Peak.NEED, 4),
        ("all it was given", {"mem_limit_bytes": 4.1 * GIB}, None, Peak.TAKEN, 4),
        ("all the device", {"job": job(device_mem_bytes=4 << 30)}, None, Peak.TAKEN, 4),
        ("as much with room before", {"mem_limit_bytes": 4.1 * GIB}, 4, Peak.NEED, 4),
        ("said to take all", {"elastic": True}, None, Peak.TAKEN, 4),
        ("said to, more than before", {"elastic": True}, 3.7, Peak.TAKEN, 4),
        ("said to, as much before", {"elastic": True}, 3.9, Peak.NEED, 4),
        (
            "refused, and got along",
            {"mem_limit_bytes": 4.1 * GIB, "attempted_bytes": 5 * GIB, "elastic": True},
            None,
            Peak.NEED,
            4.1,
        ),
        ("failed", {"outcome": Outcome.FAILED}, 4, Peak.LEAST, 4),
        ("killed", {"outcome": Outcome.KILLED}, 4, Peak.LEAST, 4),
        ("lost", {"outcome": Outcome.LOST}, 4, Peak.LEAST, 4),
        ("refused", {"outcome": Outcome.OOM, "attempted_bytes": 5 * GIB}, 4, Peak.LEAST, 5),
    ],
)
def test_what_a_peak_says(
    description: str, fields: dict[str, object], past: float | None, how: Peak, read: float
) -> None:
    of = run(job(), 4 * GIB, 1000.0, **fields)
    found = peak(of, 4 * GIB, None if past is None else _seen(past * GIB))
    assert found == (how, read * GIB), description


def _refused(limit: float, attempted: float = 0.0) -> Trouble:
    trouble = Trouble()
    of = run(job(), limit, mem_limit_bytes=int(limit), attempted_bytes=int(attempted))
    trouble.refused(of, limit, 0.0, 256 << 20)
    return trouble


@pytest.mark.parametrize(
    ("description", "limit", "attempted", "answer", "floor"),
    [
        ("half more", 4 * GIB, 4.1 * GIB, 0.0, 6 * GIB),
        ("what it tried", 4 * GIB, 20 * GIB, 0.0, 20.4 * GIB),
        ("what had been said", 4 * GIB, 4.1 * GIB, 9 * GIB, 9 * GIB),
        ("no limit: the device's", 0.0, 4 * GIB, 0.0, 120 * GIB),
    ],
)
def test_one_refused_is_given_more(
    description: str, limit: float, attempted: float, answer: float, floor: float
) -> None:
    trouble = Trouble()
    of = run(job(), limit, mem_limit_bytes=int(limit), attempted_bytes=int(attempted))
    trouble.refused(of, limit, answer, 256 << 20)
    assert trouble.floor_bytes == pytest.approx(floor), description


def test_one_refused_twice_is_given_all() -> None:
    trouble = _refused(4 * GIB)
    trouble.refused(run(job(), 6 * GIB, mem_limit_bytes=6 << 30), 6 * GIB, 0.0, 256 << 20)
    assert math.isinf(trouble.floor_bytes)


def test_a_refusal_is_forgotten_after_five_clean_runs() -> None:
    trouble = _refused(4 * GIB)
    for _ in range(4):
        trouble.ended_well(6 * GIB, Peak.NEED)
    assert trouble.floor_bytes == 6 * GIB
    trouble.ended_well(6 * GIB, Peak.NEED)
    assert trouble.over
    # And a later one is the first again.
    trouble.refused(run(job(), 8 * GIB, mem_limit_bytes=8 << 30), 8 * GIB, 0.0, 256 << 20)
    assert trouble.floor_bytes == 12 * GIB


def test_one_that_takes_all_is_given_less_until_it_is_refused() -> None:
    trouble = Trouble()
    for _ in range(2):
        trouble.ended_well(10 * GIB, Peak.TAKEN)
    assert trouble.probe_bytes() is None  # two runs are no proof
    trouble.ended_well(10 * GIB, Peak.TAKEN)
    assert trouble.probe_bytes() == 9 * GIB
    trouble.ended_well(9 * GIB, Peak.TAKEN)
    assert trouble.probe_bytes() == pytest.approx(8.1 * GIB)
    refused = run(job(), 8.1 * GIB, mem_limit_bytes=int(8.1 * GIB))
    trouble.refused(refused, 8.1 * GIB, 0.0, 256 << 20)
    assert trouble.floor_bytes == pytest.approx(12.15 * GIB)
    for _ in range(6):
        trouble.ended_well(9 * GIB, Peak.TAKEN)
    assert trouble.probe_bytes() == 9 * GIB  # 8.1 was refused: never again


def test_what_was_enough_before_a_refusal_of_more_is_enough_no_more() -> None:
    trouble = Trouble()
    for _ in range(4):
        trouble.ended_well(9 * GIB, Peak.TAKEN)
    trouble.refused(run(job(), 10 * GIB, mem_limit_bytes=10 << 30), 10 * GIB, 0.0, 256 << 20)
    assert trouble.probe_bytes() is None
    trouble.ended_well(8 * GIB, Peak.TAKEN)  # by chance
    assert trouble.probe_bytes() is None
    for _ in range(6):
        trouble.ended_well(15 * GIB, Peak.TAKEN)
    assert trouble.probe_bytes() == 13.5 * GIB


def test_a_lower_bound_is_forgotten_after_five_clean_runs_in_a_row() -> None:
    trouble = Trouble()
    trouble.at_least(8 * GIB, "so it was")
    for _ in range(4):
        trouble.ended_well(8 * GIB, Peak.NEED)
    trouble.at_least(6 * GIB, "less than that")
    trouble.ended_well(8 * GIB, Peak.NEED)
    assert (trouble.floor_bytes, trouble.why) == (8 * GIB, "so it was")


def test_one_that_leaves_room_does_not_take_all() -> None:
    trouble = Trouble()
    for _ in range(4):
        trouble.ended_well(10 * GIB, Peak.TAKEN)
    trouble.ended_well(10 * GIB, Peak.NEED)
    assert trouble.probe_bytes() is None
    assert trouble.over


def test_noise_is_in_bytes_for_small_ones_and_in_parts_for_large_ones() -> None:
    assert noise_bytes(1 * GIB) == 256 << 20
    assert noise_bytes(100 * GIB) == 2 * GIB


@pytest.mark.parametrize("timed", [False, True])
def test_a_past_that_is_read_back_goes_on_as_it_would_have(*, timed: bool) -> None:
    """Over every age of its sketches: none, one, a young one beside it, the next."""
    rng = random.Random(7)
    first = second = Past(20.0, timed=timed)
    at = 0.0
    for number in range(3000):
        at += 5000.0 if number == 2500 else rng.uniform(0, 2)
        value = rng.choice((0.0, rng.lognormvariate(20, 5), 1e-9, 1e30 if number > 2700 else 1.0))
        first.add(value, at)
        second.add(value, at)
        if number % 37 == 0 or number < 3:
            out = Writer()
            second.write(out)
            second = Past(20.0, timed=timed)
            data = Reader(out.done())
            second.read(data)
            data.end()
        assert (first.runs, first.last, first.spread(6)) == (
            second.runs,
            second.last,
            second.spread(6),
        )
        if number % 7 == 0:
            every = (0.0, 0.1, 0.5, 0.9, 0.95, 1.0)
            assert [first.quantile(q) for q in every] == [second.quantile(q) for q in every]
    again = Writer()
    first.write(out := Writer())
    second.write(again)
    assert out.done() == again.done()
