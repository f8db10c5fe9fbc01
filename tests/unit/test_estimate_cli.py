# SPDX-License-Identifier: Apache-2.0
"""`harp estimate JOB|--command|--pod|explain|history`, before a harpd that is told what to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from harp.api.jobs import need_message, run_message, run_of
from harp.api.v1 import control_pb2 as pb
from harp.cli.estimate_job import figure
from harp.cli.main import cli
from harp.client import Client
from harp.errors import UnknownTenant
from harp.estimator.job import TARGETS, Job, Need, Outcome, Run

GIB = 1 << 30
KNOWN = Need(TARGETS[0], 1.0 * GIB, 1.5 * GIB, 0.98, True, "signature", 4, "1.5 GiB = so")
UNKNOWN = Need(TARGETS[1], None, None, 0.99, False, "request", 0, "unknown: nobody knows")
POD = """
apiVersion: v1
kind: Pod
metadata:
  name: a-pod
  namespace: red
  labels: {team: x}
  annotations: {harp.dev/memory: 18Gi, harp.dev/estimate: auto, other.org/x: y}
spec:
  containers:
  - {name: beside, image: proxy}
  - name: train
    image: repo/train:1
    command: [python, train.py]
    args: [--batch, "64"]
    resources: {limits: {harp.dev/gpu-share: "25"}}
"""


class FakeHarpd:
    """Answers as it is told; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[pb.EstimateRequest] = []
        self.reply = pb.EstimateReply(
            needs=[need_message(KNOWN), need_message(UNKNOWN)], runs=7, explained=["why", "so\x1b["]
        )
        self.kept: list[Run] = []
        self.pages: list[pb.GetRunsRequest] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def estimate(self, request: pb.EstimateRequest) -> pb.EstimateReply:
        self.asked.append(pb.EstimateRequest.FromString(request.SerializeToString()))
        if request.tenant == "gone":
            raise UnknownTenant("no tenant 'gone'", "there is none")
        return self.reply

    def state(self) -> pb.GetStateReply:
        return pb.GetStateReply(devices=[pb.Device(memory_bytes=80 * GIB)])

    def runs(self, request: pb.GetRunsRequest) -> pb.GetRunsReply:
        self.pages.append(pb.GetRunsRequest.FromString(request.SerializeToString()))
        if request.newest:
            return pb.GetRunsReply(runs=[run_message(r) for r in self.kept[::-1][: request.limit]])
        found = [r for r in self.kept if r.number > request.after][:2]
        last = found[-1].number if found else request.after
        more = bool(self.kept) and last < self.kept[-1].number
        return pb.GetRunsReply(runs=[run_message(r) for r in found], next=last, more=more)

    def add_runs(self, runs: Any) -> int:
        found = [run for one in runs if (run := run_of(one)) not in self.kept]
        self.kept += found
        return len(found)


@pytest.fixture
def harpd(monkeypatch: pytest.MonkeyPatch) -> FakeHarpd:
    fake = FakeHarpd()
    monkeypatch.setattr(Client, "connect", lambda _env: fake)
    return fake


def harp(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["estimate", *arguments])


def run_of_number(number: int) -> Run:
    return Run(
        Job(
            program="abcdef0123456789", user="fedcba9876543210", owner="" if number % 2 else "n/J/o"
        ),
        number=number,
        started_s=1e9,
        ended_s=1e9 + number,
        outcome=Outcome.OOM if number == 3 else Outcome.DONE,
        exit_status=1 if number == 3 else 0,
        used={TARGETS[0]: number * float(GIB), "duration_s": 5.0},
        quantiles={"gpu_mem_bytes.p50": 0.5 * GIB},
        mem_limit_bytes=8 * GIB,
        attempted_bytes=9 * GIB if number == 3 else 0,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--command", "python train.py --name 'a b'"), ["python", "train.py", "--name", "a b"]),
        (
            ("--", "python", "train.py", "--json", "--", "x"),
            ["python", "train.py", "--json", "--", "x"],
        ),
        (("job", "--mem", "8GiB", "--", "python"), ["python"]),
    ],
)
def test_a_command_is_asked_about_by_its_words(
    harpd: FakeHarpd, arguments: tuple[str, ...], words: list[str]
) -> None:
    found = harp(*arguments)
    assert found.exit_code == 0, found.output
    assert list(harpd.asked[0].command) == words
    assert not harpd.asked[0].tenant
    assert not harpd.asked[0].explain


def test_a_tenant_is_asked_about_by_its_name_alone(harpd: FakeHarpd) -> None:
    assert harp("a-job").exit_code == 0
    assert harp("job", "replay").exit_code == 0
    assert [one.tenant for one in harpd.asked] == ["a-job", "replay"]
    assert "--mem is not for a tenant" in harp("a-job", "--mem", "1GiB").output
    assert len(harpd.asked) == 2


@pytest.mark.parametrize(
    "arguments", [("a", "--command", "b"), ("a", "--", "b"), ("--json",), ("a", "b"), ("a", "--")]
)
def test_it_is_about_one_job(harpd: FakeHarpd, arguments: tuple[str, ...]) -> None:
    assert harp(*arguments).exit_code == 2
    assert not harpd.asked


def test_what_is_said_of_a_command_is_passed_on(harpd: FakeHarpd) -> None:
    more = ("--image", "i", "--framework", "f", "--owner", "n/K/o", "--label", "a=b", "--gpu", "0")
    limits = ("--mem", "8GiB", "--share", "30%", "--user", "123")
    assert harp("--command", "x", *more, *limits).exit_code == 0
    assert harpd.asked[0] == pb.EstimateRequest(
        command=["x"],
        image="i",
        framework="f",
        owner="n/K/o",
        labels={"a": "b"},
        gpu="0",
        mem_bytes=8 * GIB,
        share_ppm=300_000,
        for_uid=123,
    )
    assert "no user 'nobody-is-called-so'" in str(
        harp("--command", "x", "--user", "nobody-is-called-so").exception
    )


@pytest.mark.usefixtures("harpd")
def test_a_needs_table_says_what_is_known_and_why() -> None:
    lines = harp("a-job").output.splitlines()
    assert lines[0] == "a-job"
    assert lines[2].split() == ["GPU", "memory", "1GiB", "1.5GiB", "98%", "signature", "4"]
    assert lines[3].split() == ["GPU", "time", "-", "-", "-", "unknown", "0"]
    assert lines[4:] == ["GPU memory: 1.5 GiB = so", "GPU time: unknown: nobody knows"]


@pytest.mark.usefixtures("harpd")
def test_json_is_one_object_with_all_of_it() -> None:
    found = json.loads(harp("a-job", "--json").output.splitlines()[-1])
    assert found["needs"]["gpu_mem_bytes"] == {
        "target": "gpu_mem_bytes",
        "typical": GIB,
        "bound": 1.5 * GIB,
        "confidence": 0.98,
        "known": True,
        "level": "signature",
        "runs": 4,
        "reason": "1.5 GiB = so",
    }
    assert found["needs"]["share_ratio"]["bound"] is None
    assert (found["runs"], found["state"], found["ended"]) == (7, "", None)


def test_explain_prints_lines_that_move_no_cursor(harpd: FakeHarpd) -> None:
    found = harp("explain", "a-job")
    assert found.output.splitlines()[-2:] == ["why", "so?["]
    assert harpd.asked[0].explain


def test_nothing_known_is_said(harpd: FakeHarpd) -> None:
    harpd.reply.runs = 0
    assert "no run has ended yet" in harp("a-job").output
    harpd.reply.state = "history is being read"
    assert "nothing is known: history is being read" in harp("a-job").output


@pytest.mark.usefixtures("harpd")
def test_an_unknown_tenant_is_an_error() -> None:
    assert isinstance(harp("gone").exception, UnknownTenant)


def test_a_pod_is_asked_about_by_what_its_container_runs(harpd: FakeHarpd, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    found = harp("--pod", str(file), "--json")
    assert found.exit_code == 0, found.output
    assert harpd.asked[0] == pb.EstimateRequest(
        command=["python", "train.py", "--batch", "64"],
        image="repo/train:1",
        owner="red/Pod/a-pod/train",
        labels={"team": "x"},
        mem_bytes=18 * GIB,
        share_ppm=250_000,
    )
    assert json.loads(found.output.splitlines()[-1])["annotations"] == {
        "harp.dev/memory": "18Gi",
        "harp.dev/estimate": "auto",
    }
    # Without the annotation its share is one of the memory too.
    file.write_text(POD.replace("harp.dev/memory: 18Gi, ", ""))
    harp("--pod", str(file))
    assert harpd.asked[1].mem_bytes == 20 * GIB


def test_runs_are_listed_the_last_first(harpd: FakeHarpd) -> None:
    harpd.kept = [run_of_number(n) for n in (1, 2, 3)]
    lines = harp("history", "--limit", "2").output.splitlines()
    assert lines[1].split()[0] == "3"
    assert lines[1].split()[3:] == [
        "oom",
        "abcdef01",
        "fedcba98",
        "8GiB",
        "3GiB+",
        "-",
        "-",
        "-",
        "5s",
    ]
    assert lines[2].split()[4] == "n/J/o"
    assert lines[-1] == "+: it would have taken more"
    found = json.loads(harp("history", "--json").output.splitlines()[-1])["runs"]
    assert [one["number"] for one in found] == [3, 2, 1]
    assert found[0]["outcome"] == "oom"
    harpd.kept = []
    assert "no run is kept" in harp("history").output


def test_runs_go_out_page_by_page_and_come_in_again(harpd: FakeHarpd, tmp_path: Path) -> None:
    file = str(tmp_path / "runs.csv")
    assert "no run is kept" in str(harp("export", file).exception)
    harpd.kept = runs = [run_of_number(n) for n in range(1, 6)]
    assert harp("export", file).output == f"5 runs written to {file}\n"
    assert [one.after for one in harpd.pages[-3:]] == [0, 2, 4]
    harpd.kept = runs[:2]
    assert harp("import", file).output == f"3 runs of {file} added, 2 were there already\n"
    assert harpd.kept == runs
    told = json.loads(harp("import", file, "--json").output)
    assert told == {"file": file, "runs": 0, "skipped": 5}
    harpd.kept = []
    assert harp("import", file).output == f"5 runs of {file} added\n"
    assert harpd.kept == runs
    for name in ("export", "import"):
        assert "of no known format" in str(harp(name, str(tmp_path / "runs.txt")).exception)


@pytest.mark.parametrize(
    ("target", "value", "text"),
    [
        ("gpu_mem_bytes", 0.0, "0"),
        ("gpu_mem_bytes", None, "-"),
        ("share_ratio", 0.254, "25%"),
        ("cpu_cores", 1.5, "1.50"),
        ("duration_s", 3.14159, "3.14s"),
        ("duration_s", 119.6, "2min00s"),
        ("duration_s", 7261.0, "2h01min"),
    ],
)
def test_figures_are_as_people_read_them(target: str, value: float | None, text: str) -> None:
    assert figure(target, value) == text
