# SPDX-License-Identifier: Apache-2.0
"""The judge of the estimator: tables read, time walked, figures counted by hand, no leak."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from harp.cli import estimate as cli
from harp.errors import ConfigError
from harp.estimator import Estimate
from harp.estimator.packing import BUFFERS, Load, buffer_for, overloaded, pack, packed
from harp.estimator.replay import run, tables
from harp.estimator.replay.score import report
from harp.estimator.replay.tables import WINDOW_S, Case
from harp.estimator.replay.walk import Judged, later, walk

GB = 1e9
WHOLE = tables.WHOLE_DEVICE_BYTES
TRACES = Path(os.environ.get("HARP_TRACES", "../shared/data")) / "traces"
quiet: Callable[[object], None] = lambda _: None  # noqa: E731


def write(folder: Path, name: str, header: str, rows: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode()))
    return folder


def jobs(folder: Path, count: int = 400, seed: int = 1) -> Path:
    """Synthetic: a few virtual clusters whose jobs last about as long."""
    rng = random.Random(seed)
    rows = [
        f"{at * 50},v{at % 4},{1 + at % 2},{(1 + at % 4) * rng.lognormvariate(5, 0.5):.0f}"
        for at in range(count)
    ]
    return write(folder, "philly_jobs.csv.gz", "submit_s,vc,num_gpus,duration_s", rows)


def pods(folder: Path, windows: int = 8, count: int = 12, seed: int = 1) -> Path:
    rng = random.Random(seed)
    rows = []
    for step in range(windows * 60):
        for pod in range(count):
            mem = (15 + pod) * GB * rng.uniform(0.9, 1.0)
            rows.append(f"{step * 57.0},p{pod},{mem:.0f},{rng.uniform(5, 30):.1f},{0.3 + pod / 60}")
    return write(
        folder, "pods_57s.csv.gz", "t_s,pod,gpu_mem_bytes,gpu_util_pct,host_mem_frac", rows
    )


def case(begin_s: float, value: float, name: str = "a", **more: object) -> Case:
    keys = (("container", name),)
    made = Case("gpu_mem_bytes", name, begin_s, begin_s + 10.0, keys, value, 100.0)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def test_samples_become_windows(tmp_path: Path) -> None:
    header = "t_s,pod,gpu_mem_bytes,gpu_util_pct,host_mem_frac"
    rows = [f"{n * 57.0},a,{n},{n % 60},{n / 1000}" for n in range(90)] + ["0.0,b,,,0.5"]
    found = tables.read(write(tmp_path, "pods_57s.csv.gz", header, rows), "pods")
    memory = [c for c in found if c.target == "gpu_mem_bytes"]
    assert [(c.value, c.begin_s, c.end_s) for c in memory] == [
        (59.0, 0.0, WINDOW_S),
        (89.0, WINDOW_S, 2 * WINDOW_S),
    ]
    assert [c.request for c in memory] == [WHOLE] * 2
    assert [c.scored for c in memory] == [True, True]
    assert [c.value for c in found if c.target == "gpu_util_pct"] == [57.0, 28.0]
    # One sample is learned from, not scored; what was not observed is no case.
    assert [(c.target, c.scored) for c in found if c.name == "b"] == [("host_mem_frac", False)]


def test_only_those_that_succeeded_are_requests(tmp_path: Path) -> None:
    header = "submit_s,user,model,task,steps,images,num_lora,prompt_chars,status,duration_s"
    rows = [
        "0,u,m,t,30,1,0,5,SUCCEED,32",
        "5,u,m,t,30,1,0,5,FAILED,32",
        "9,u,m,t,30,1,0,5,SUCCEED,",
    ]
    (found,) = tables.read(write(tmp_path, "requests.csv.gz", header, rows), "requests")
    assert (found.value, found.end_s, found.keys[0][0]) == (32.0, 32.0, "user and signature")
    assert found.keys[-1] == ("all",)


def test_who_has_not_ended_has_no_lifetime(tmp_path: Path) -> None:
    header = "instance,app,role,cpus,gpus,mem_gib,rdma_pct,create_s,sched_s,delete_s"
    rows = ["i1,a,HN,1,1,1,1,10,11,30", "i2,a,HN,1,1,1,1,,,30", "i3,a,HN,1,1,1,1,10,11,"]
    (found,) = tables.read(write(tmp_path, "dlrm_instances.csv.gz", header, rows), "dlrm")
    assert (found.value, found.begin_s) == (20.0, 10.0)


@pytest.mark.parametrize(
    ("header", "row", "why"),
    [
        ("submit_s,vc,duration_s", "1,2,3", "no column num_gpus"),
        ("submit_s,vc,num_gpus,duration_s", "x,v,1,3", "submit_s is 'x'"),
        ("submit_s,vc,num_gpus,duration_s", ",v,1,3", "submit_s is empty"),
        ("submit_s,vc,num_gpus,duration_s", "1,v,1,inf", "duration_s is 'inf'"),
        ("submit_s,vc,num_gpus,duration_s", "1,v,1,nan", "duration_s is 'nan'"),
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path: Path, header: str, row: str, why: str) -> None:
    folder = write(tmp_path, "philly_jobs.csv.gz", header, [row])
    with pytest.raises(ConfigError, match=why):
        tables.read(folder, "philly")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnonsense", b"\xff\xfe\x00", None])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "philly_jobs.csv.gz").write_bytes(content)
    with pytest.raises(ConfigError, match="philly"):
        tables.read(tmp_path, "philly")


def test_plain_csv_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "philly_jobs.csv").write_text("submit_s,vc,num_gpus,duration_s\n1,v,1,3\n")
    assert len(tables.read(tmp_path, "philly")) == 1


def test_nothing_is_known_before_it_ended() -> None:
    # Each begins before the one before it ends: nobody can be known yet.
    overlapping = [case(at * 5.0, 50.0) for at in range(2)]
    assert [one.found.runs for one in walk([], overlapping)] == [0, 0]
    assert [one.others["last"] for one in walk([], overlapping)] == [None, None]
    apart = [case(at * 10.0, 50.0 + at) for at in range(3)]
    assert [one.others["last"] for one in walk([], apart)] == [None, 50.0, 51.0]


def test_what_comes_later_changes_nothing_said_before(tmp_path: Path) -> None:
    cases = tables.read(jobs(tmp_path / "j", 600), "philly")
    cut = 400
    whole = [(one.found, one.others) for one in walk([], cases)][:cut]
    rng = random.Random(9)
    changed = [
        dataclasses.replace(c, value=(v := c.value * rng.uniform(0.1, 9)), end_s=c.begin_s + v)
        for c in cases[cut:]
    ]
    begin_s = cases[cut].begin_s
    # Who was running then may end at another time, not earlier than anything said before.
    shuffled = changed[:]
    rng.shuffle(shuffled)
    again = [
        (one.found, one.others)
        for one in walk([], cases[:cut] + sorted(shuffled, key=lambda c: c.begin_s))
    ]
    assert all(c.begin_s >= begin_s for c in changed)
    assert again[:cut] == whole


def test_a_rows_own_value_does_not_change_what_is_said_of_it(tmp_path: Path) -> None:
    cases = tables.read(jobs(tmp_path / "j", 300), "philly")
    last = cases[-1]
    said = [one.found for one in walk([], cases)][-1]
    cases[-1] = dataclasses.replace(last, value=last.value * 50, end_s=last.end_s * 50)
    assert [one.found for one in walk([], cases)][-1] == said


def test_the_warm_up_is_learned_from_and_not_scored() -> None:
    before = [case(at * 10.0, 50.0) for at in range(5)]
    after = [case(0.0, 60.0)]
    (one,) = walk(before, later(before, after))
    assert one.others["last"] == 50.0
    assert one.case.begin_s == 40.0  # moved behind the warm-up's last begin


def test_later_tables_stay_where_they_are() -> None:
    before, after = [case(0.0, 1.0)], [case(100.0, 1.0)]
    assert later(before, after) == after
    assert later([], after) == after


def _judged(name: str, value: float, grant: float | None, runs: int = 3) -> Judged:
    known = grant is not None
    bound = grant if known else 100.0
    found = Estimate(
        value, (bound,), known, "container" if known else "request", runs if known else 0, None, ""
    )
    others: dict[str, float | None] = dict.fromkeys(
        ("request", "last", "vpa_p90", "vpa_p90_15", "vpa_p95", "vpa_p95_15", "running_max"), 100.0
    )
    others["last"] = None
    others["running_max"] = 500.0
    return Judged(case(0.0, value, name), found, others)


def test_figures_are_those_counted_by_hand() -> None:
    said = [
        _judged("a", 50, 60),
        _judged("a", 70, 60),
        _judged("b", 20, 40),
        _judged("b", 90, None),
    ]
    found = report(said)
    (figures,) = found["targets"].values()  # type: ignore[attr-defined]
    assert figures["coverage"] == 0.75
    assert figures["saved"] == pytest.approx(1 - (60 + 60 + 40 + 100) / 400)
    assert figures["median_ratio"] == pytest.approx((60 / 50 + 100 / 90) / 2)
    assert (figures["n"], figures["unknown"]) == (4, 1)
    assert figures["worst_key"] == {"key": "a", "coverage": 0.5, "n": 2}
    assert figures["by_runs"]["0"] == {"coverage": 1.0, "n": 1}
    assert figures["by_runs"]["1-4"] == {"coverage": pytest.approx(2 / 3), "n": 3}
    baselines = found["baselines"]["gpu_mem_bytes"]  # type: ignore[index]
    assert baselines["last"]["saved"] == 0  # unknown is granted its request
    assert baselines["running_max"]["saved"] == 0  # no more than the request is ever granted


def test_intervals_are_over_keys() -> None:
    # All of one key missed, all of the other held: the interval is the whole of it.
    said = [_judged("a", 70, 60) for _ in range(50)] + [_judged("b", 20, 60) for _ in range(50)]
    (figures,) = report(said)["targets"].values()  # type: ignore[attr-defined]
    assert figures["ci95"]["coverage"] == [0.0, 1.0]


def _load(name: str, mem: float, used: tuple[float, ...] = (), util: float = 10.0) -> Load:
    return Load(name, mem, util, used)


def test_the_largest_go_first_and_first_fit() -> None:
    loads = [_load("a", 30), _load("b", 60), _load("c", 50), _load("d", 40), _load("e", 200)]
    gpus = [[one.name for one in gpu] for gpu in pack(loads, 100, 1000)]
    assert gpus == [["e"], ["b", "d"], ["c", "a"]]


def test_utilization_is_packed_too() -> None:
    loads = [_load(name, 10, util=60) for name in "abc"]
    assert [len(gpu) for gpu in pack(loads, 100, 120)] == [2, 1]


def test_a_gpu_is_over_when_its_sum_is_at_one_moment() -> None:
    apart = [_load("a", 0, (60, 0)), _load("b", 0, (0, 60))]
    together = [_load("a", 0, (60, 0)), _load("b", 0, (60, 0))]
    assert not overloaded(apart, 100)
    assert overloaded(together, 100)
    assert packed(together, 100, 0.1, 1000).over == 1


def test_the_buffer_is_the_smallest_that_would_have_done() -> None:
    # Three of 30 expected; 35 used: 105 of 100. With 15 % free only two fit.
    windows = [[_load(str(at), 30, (35.0,)) for at in range(6)]]
    assert buffer_for(windows, 100, 1000, 0.0) == pytest.approx(0.11)
    assert buffer_for([], 100, 1000, 0.0) == BUFFERS[len(BUFFERS) // 2]


@pytest.mark.parametrize("table", ["pods", "philly"])
def test_a_replay_is_the_same_each_time(tmp_path: Path, table: str) -> None:
    folder = jobs(tmp_path / "j") if table == "philly" else pods(tmp_path / "p")
    outputs = {
        json.dumps(run.replay(table, None, folder, begin_ratio=0.5, progress=quiet))
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_one_folder_cannot_be_both(tmp_path: Path) -> None:
    folder = jobs(tmp_path / "j")
    with pytest.raises(ConfigError, match="same folder"):
        run.replay("philly", folder, tmp_path / "j" / ".", begin_ratio=0.5, progress=quiet)


def test_pack_uses_no_more_gpus_than_one_each(tmp_path: Path) -> None:
    found = run.pack(None, pods(tmp_path / "p"), 80e9, begin_ratio=0.6, progress=quiet)
    beside = found["beside"]
    assert isinstance(beside, dict)
    assert 1.0 < beside["oracle"]["containers_per_gpu"] <= 4.5
    assert found["containers_per_gpu"] <= beside["no_buffer"]["containers_per_gpu"]  # type: ignore[operator]
    assert beside["oracle"]["overload_ratio"] == 0
    assert found["buffer_ratio"] in BUFFERS


def test_a_device_smaller_than_the_traces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smaller than the trace"):
        run.pack(None, pods(tmp_path / "p", 2, 2), 1e9, begin_ratio=0.6, progress=quiet)


def test_the_command_prints_one_object_last(tmp_path: Path) -> None:
    folder = jobs(tmp_path / "j")
    args = ["replay", "--table", "philly", "--score", str(folder), "--json"]
    result = CliRunner().invoke(cli.estimate, args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == {"table", "targets", "baselines"}
    assert {"within_25", "coverage_90", "coverage_95"} <= set(found["targets"]["duration_s"])
    text = CliRunner().invoke(cli.estimate, args[:-1])
    assert "covered" in text.stdout
    packs = CliRunner().invoke(
        cli.estimate, ["pack", "--score", str(pods(tmp_path / "p")), "--device-bytes", "80e9"]
    )
    assert packs.exit_code == 0, packs.output
    assert "oracle" in packs.stdout


def test_the_commands_names_are_the_tables() -> None:
    assert cli.TABLE_NAMES == tables.TABLES


needs_traces = pytest.mark.skipif(
    not TRACES.is_dir(), reason="recorded traces are not here (HARP_TRACES)"
)


@needs_traces
@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "target", "key", "least"),
    [
        ("pods", "gpu_mem_bytes", "coverage", 0.98),
        ("pods", "host_mem_frac", "coverage", 0.98),
        ("pods", "host_mem_frac", "saved", 0.40),
        ("pods", "gpu_util_pct", "coverage", 0.99),
        ("pods", "gpu_util_pct", "saved", 0.50),
        ("requests", "duration_s", "within_25", 0.60),
        # Wanted of GPU memory is 0.17: not met, see harp/estimator/README.md.
        ("pods", "gpu_mem_bytes", "saved", 0.14),
    ],
)
def test_recorded_tables(table: str, target: str, key: str, least: float) -> None:
    found = run.replay(table, None, TRACES, begin_ratio=0.6, progress=quiet)
    assert found["targets"][target][key] >= least  # type: ignore[index]


@needs_traces
@pytest.mark.slow
@pytest.mark.parametrize("unseen", [False, True], ids=["known", "unseen"])
def test_recorded_gpu_memory_wherever_windows_begin(unseen: bool) -> None:
    """One alignment has seven misses of 430: several say more. Keys may also all be new."""
    samples = tables.samples(TRACES)
    held, granted, requested, count = 0, 0.0, 0.0, 0
    for first in (0, 15, 30, 45):
        offset_s = first * tables.SAMPLE_S
        moved = [
            dataclasses.replace(
                one,
                at_s=one.at_s - offset_s,
                values={k: v for k, v in one.values.items() if k == "gpu_mem_bytes"},
            )
            for one in samples
            if one.at_s >= offset_s
        ]
        cases = sorted(tables.cases_of(moved), key=lambda c: c.begin_s)
        before = [c for c in cases if c.begin_s < 9 * WINDOW_S]
        after = [c for c in cases if c.begin_s >= 9 * WINDOW_S]
        if unseen:
            after = [dataclasses.replace(c, keys=(("container", "x", c.name),)) for c in after]
        for one in walk(before, after):
            assert one.found.grant is not None
            assert one.case.request is not None
            held += one.case.value <= one.found.grant * (1 + 1e-9)
            granted, requested = granted + one.found.grant, requested + one.case.request
            count += 1
    assert count > 1600
    assert held / count >= 0.98
    assert 1 - granted / requested >= 0.145


@needs_traces
@pytest.mark.slow
@pytest.mark.parametrize("table", ["requests", "philly"])
def test_recorded_durations_are_bounded_as_often_as_is_said(table: str) -> None:
    found = run.replay(table, None, TRACES, begin_ratio=0.6, progress=quiet)
    figures = found["targets"]["duration_s"]  # type: ignore[index]
    assert figures["coverage_90"] == pytest.approx(0.90, abs=0.015)
    assert figures["coverage_95"] == pytest.approx(0.95, abs=0.015)


@needs_traces
@pytest.mark.slow
def test_recorded_containers_pack() -> None:
    found = run.pack(None, TRACES, 80e9, begin_ratio=0.6, progress=quiet)
    assert found["containers_per_gpu"] >= 1.9  # type: ignore[operator]
    assert found["overload_ratio"] <= 0.005  # type: ignore[operator]
