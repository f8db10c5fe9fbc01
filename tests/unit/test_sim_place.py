# SPDX-License-Identifier: Apache-2.0
"""`harp sim place`: the trace files it reads, the replay, and what it prints."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from placement_cases import GIB, node, pod, workload

from harp.cli.main import cli
from harp.cli.sim_place import POLICY_NAMES
from harp.errors import ConfigError
from harp.scheduler import POLICIES, Node, Pod
from harp.sim.place import DEMAND_PCT, Replay, arrivals, as_json, as_text, replay
from harp.sim.traces import read_nodes, read_pods

NODES = """sn,cpu_milli,memory_mib,gpu,model
n-b,64000,262144,2,P100
n-a,96000,393216,8,G2
n-c,32000,1024,0,
"""
PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time
p-0,12000,16384,1,1000,,LS,0
p-1,6000,12288,1,460,G2|P100,LS,7
p-2,8000,1,0,0,,BE,9
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A nodes file and a pods file, gzipped as the public ones are kept."""
    paths = tmp_path / "nodes.csv.gz", tmp_path / "pods.csv.gz"
    for path, text in zip(paths, (NODES, PODS), strict=True):
        path.write_bytes(gzip.compress(text.encode()))
    return str(paths[0]), str(paths[1])


def place(nodes: str, pods: str, *more: str) -> Result:
    return CliRunner().invoke(cli, ["sim", "place", "--nodes", nodes, "--pods", pods, *more])


def run(nodes: list[Node], pods: list[Pod], policy: str = "hybrid", seed: int = 1) -> Replay:
    ticks = itertools.count()
    return replay(nodes, pods, policy=policy, seed=seed, clock_s=lambda: next(ticks) / 1000)


def test_gzipped_and_plain_files_are_read_alike(files: tuple[str, str], tmp_path: Path) -> None:
    nodes, pods = read_nodes(Path(files[0])), read_pods(Path(files[1]))
    assert nodes == [
        Node("n-b", 64000, 256 * GIB, (1000, 1000), "P100"),
        Node("n-a", 96000, 384 * GIB, (1000,) * 8, "G2"),
        Node("n-c", 32000, GIB, (), ""),
    ]
    assert pods == [
        Pod("p-0", 12000, 16 * GIB, 1, 1000),
        Pod("p-1", 6000, 12 * GIB, 1, 460, ("G2", "P100")),
        Pod("p-2", 8000, 1 << 20),
    ]
    plain = tmp_path / "pods.csv"
    plain.write_text(PODS)
    assert read_pods(plain) == pods


def test_names_and_specs_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "five.csv"
    path.write_text("cpu_milli,memory_mib,num_gpu,gpu_milli\n1,1,1,500\n2,1,8,1000\n")
    assert [(p.name, p.gpu_spec) for p in read_pods(path)] == [("pod-2", ()), ("pod-3", ())]


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("name,cpu_milli\nx,1\n", "no column memory_mib; it has name, cpu_milli", "gpu_milli"),
        ("", "no column cpu_milli; it has none", "gpu_milli"),
        (PODS.replace("460", "4.6"), "line 3: gpu_milli is '4.6'", "whole number"),
        (PODS.replace("460", "-1"), "line 3: gpu_milli is '-1'", "whole number"),
        (PODS.replace("460", "1460"), "pod p-1 asks for 1 GPUs of 1460 milli", "1 to 1000"),
        (PODS.replace("p-1", "p-0"), "line 3: pod p-0 is there twice", "its own name"),
        (PODS + "p-3\n", "line 5: cpu_milli is ''", "whole number"),
    ],
)
def test_a_wrong_file_names_line_value_and_remedy(
    tmp_path: Path, text: str, says: str, hint: str
) -> None:
    path = tmp_path / "pods.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_pods(path)
    assert says in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize("content", [b"\x1f\x8bnot gzip at all", b"\xff\xfe\x00", None])
def test_an_unreadable_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pods.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot read"):
        read_pods(path)


def test_a_truncated_gzip_is_an_error(files: tuple[str, str]) -> None:
    path = Path(files[1])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cannot read"):
        read_pods(path)


def test_too_many_gpus_on_a_node_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "nodes.csv"
    path.write_text(NODES.replace(",8,G2", ",800,G2"))
    with pytest.raises(ConfigError, match="line 3: gpu is 800"):
        read_nodes(path)


def test_every_pod_comes_once_and_then_some_again_under_new_names() -> None:
    pods = workload()
    stream = arrivals(pods, 3)
    first = [next(stream) for _ in pods]
    assert first != pods
    assert sorted(first, key=lambda p: p.name) == sorted(pods, key=lambda p: p.name)
    more = [next(stream) for _ in range(200)]
    known = {p.name: p for p in pods}
    for number, again in enumerate(more, start=1):
        name, _, count = again.name.partition("+")
        assert int(count) == number
        assert (again.num_gpu, again.gpu_milli) == (known[name].num_gpu, known[name].gpu_milli)
    repeated = arrivals(pods, 3)
    assert [next(repeated) for _ in range(50)] == [*first, *more][:50]
    other = arrivals(pods, 4)
    assert [next(other) for _ in pods] != first


def test_figures_are_of_all_gpus_at_the_moment_the_demand_is_reached() -> None:
    """Ten GPUs, pods of half a GPU that all fit: allocated is what was asked, up to 100 %."""
    found = run([node("a", 8), node("b", 2)], [pod(f"p{n}", 500) for n in range(7)])
    assert [point.demand_pct for point in found.points] == list(DEMAND_PCT)
    for point in found.points:
        assert point.arrived == point.demand_pct * 2 // 10
        assert point.allocation_pct == min(100, point.demand_pct)
        assert point.failures == max(0, point.arrived - 20)
        assert point.fragmentation_pct == 0  # half a GPU is of use to half a GPU
    assert (found.nodes, found.gpus, found.pods) == (2, 10, 7)
    # Each decision lasts one tick of the clock.
    assert found.ms_per_decision == pytest.approx(1)
    assert found.ms_per_decision_p99 == pytest.approx(1)


def test_fragments_and_failures_are_counted() -> None:
    """Pods of 0.6: one a GPU, and 40 % of each is of no use to the next."""
    last = run([node("a", 4)], [pod(f"p{n}", 600) for n in range(3)]).points[-1]
    assert last.allocation_pct == 60
    assert last.fragmentation_pct == 40
    assert last.fragmentation_of_free_pct == 100
    assert (last.arrived, last.failures) == (9, 5)


def test_one_pod_may_reach_several_demands_at_once() -> None:
    found = run([node("a", 2)], [pod("p", 1000, gpus=2)])
    assert [(p.demand_pct, p.arrived) for p in found.points][-4:] == [
        (100, 1),
        (110, 2),
        (120, 2),
        (130, 2),
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replay_repeats_for_its_seed_and_differs_for_another(policy: str) -> None:
    nodes = [node(f"n{n}", gpus) for n, gpus in enumerate((8, 8, 4, 2, 2, 1))]
    first, second = run(nodes, workload(), policy), run(nodes, workload(), policy)
    assert first == second
    assert first.points != run(nodes, workload(), policy, seed=2).points


@pytest.mark.parametrize(
    ("nodes", "pods", "says"),
    [
        ([node("a")], [pod("p")], "none of 1 pods asks for a GPU"),
        ([node("a")], [], "none of 0 pods asks for a GPU"),
        ([node("a", 0)], [pod("p", 500)], "none of the nodes has a GPU"),
        ([], [pod("p", 500)], "no node"),
        ([node(f"n{n}") for n in range(200)], [pod("p", 1)], "some 2080000 pods must come"),
    ],
)
def test_what_never_ends_is_refused(nodes: list[Node], pods: list[Pod], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(nodes, pods)


def test_json_is_one_object_with_the_named_demands(files: tuple[str, str]) -> None:
    done = place(*files, "--policy", "fgd", "--seed", "3", "--json")
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["policy"], found["seed"]) == ("fgd", 3)
    assert (found["nodes"], found["gpus"], found["pods"]) == (3, 10, 3)
    for name in ("allocation_pct", "fragmentation_pct", "fragmentation_of_free_pct", "failures"):
        assert set(found[name]) == {"100", "130"}
    assert 0 < found["allocation_pct"]["100"] <= found["allocation_pct"]["130"] <= 100
    assert found["failures"]["130"] >= found["failures"]["100"]
    assert found["ms_per_decision"] > 0
    assert [point["demand_pct"] for point in found["points"]] == list(DEMAND_PCT)
    assert "3 nodes, 3 pods read" in done.stderr
    assert "130 % asked for" in done.stderr
    timeless = [
        {k: v for k, v in json.loads(out.stdout).items() if not k.startswith("ms_")}
        for out in (done, place(*files, "--policy", "fgd", "--seed", "3", "--json"))
    ]
    assert timeless[0] == timeless[1]


def test_the_table_shows_every_demand_and_the_policy(files: tuple[str, str]) -> None:
    done = place(*files)
    lines = done.stdout.splitlines()
    assert len(lines) == len(DEMAND_PCT) + 2
    assert lines[0].split() == [
        "DEMAND",
        "ALLOCATED",
        "FRAGMENTS",
        "OF",
        "FREE",
        "ARRIVED",
        "FAILED",
    ]
    assert lines[-1].startswith("policy hybrid, seed 1: 3 nodes, 10 GPUs, 3 pods in the list;")


def test_text_and_json_say_the_same() -> None:
    found = run([node("a", 4)], [pod(f"p{n}", 600) for n in range(3)])
    assert as_text(found)[-2].split() == ["130%", "60.00%", "40.00%", "100.00%", "9", "5"]
    assert as_json(found)["allocation_pct"] == {"100": 60.0, "130": 60.0}


def test_wrong_usage_exits_2(files: tuple[str, str]) -> None:
    assert place(*files, "--policy", "worst-fit").exit_code == 2
    assert place(*files, "--seed", "-1").exit_code == 2
    assert CliRunner().invoke(cli, ["sim", "place", "--nodes", files[0]]).exit_code == 2


def test_a_missing_file_is_one_line_and_a_hint(files: tuple[str, str]) -> None:
    error = place("nowhere.csv", files[1], "--json").exception
    assert isinstance(error, ConfigError)
    assert "cannot read nowhere.csv" in error.message


def test_the_command_knows_all_policies_and_loads_none_for_help() -> None:
    assert list(POLICY_NAMES) == list(POLICIES)
    code = "import sys, harp.cli.sim; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
