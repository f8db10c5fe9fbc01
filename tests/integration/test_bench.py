# SPDX-License-Identifier: Apache-2.0
"""`harp bench share`, `latency`, `crash`, `oversub`, `remote` end to end, small; their client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LABEL = "software GPU, not evidence for hardware"


def _bench(
    native_dir: Path, *arguments: str, timeout_s: float = 200
) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "harp", "bench", *arguments, "--json"],
        env={**os.environ, "HARP_NATIVE_DIR": str(native_dir)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(done.stderr, done.stdout)
    return done.returncode, found, done.stderr


@pytest.fixture
def busy(native_dir: Path) -> str:
    program = native_dir / "harp-bench-busy"
    if not program.exists():
        pytest.fail(f"{program} is not there; remedy: deploy/bootstrap dev")
    return str(program)


@pytest.mark.slow
def test_bench_share_says_all_its_fields(native_dir: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    own = ["--shares", "30,70", "--seconds", "2", "--repeat", "1", "--raw", str(raw)]
    status, found, errors = _bench(native_dir, "share", *own)
    assert LABEL in errors
    assert found["label"] == LABEL
    assert found["software"] is True
    # The verdict is the figures' and the status the verdict's, whatever they are on a busy host.
    assert found["ok"] is (not found["violations"] and found["can_tell"])
    assert status == (0 if found["ok"] else 1)
    assert found["can_tell"] is True, found
    (case,) = found["cases"]
    assert case["name"] == found["worst"] == "saturate-30/70.200us.2000us.20us"
    assert case["requested"] == [0.3, 0.7]
    for figure in ("achieved", "charged", "counted"):
        assert sum(case[figure]) == pytest.approx(1, abs=0.001), figure
    for figure in ("meter_error_pp", "client_error_pp", "mean_error_pp", "p95_error_pp"):
        assert case[figure] >= 0
    assert case["aggregate_ratio"] > 0
    assert case["arbiter_cpu_ratio"] is not None
    (control,) = [c for c in found["controls"] if c["kind"] == "gate-off"]
    assert control["fails"]
    samples = [json.loads(line) for line in raw.read_text().splitlines()]
    assert {sample["side"] for sample in samples} >= {"native", "harp", "gate-off"}
    under_harp = [sample for sample in samples if sample["side"] == "harp"]
    assert len(under_harp) == 3
    assert all(len(sample["counted_ns"]) == 2 for sample in under_harp)


@pytest.mark.slow
def test_bench_share_takes_any_program(native_dir: Path, busy: str) -> None:
    """It is told its share, need not say anything, and is judged by the other two books."""
    command = f"sh -c 'exec {busy} --kernel-us $((100 + {{share}})) >/dev/null'"
    status, found, _ = _bench(
        native_dir, "share", "--client", command, "--seconds", "1", "--repeat", "1"
    )
    assert status in {0, 1}
    (case,) = found["cases"]
    assert case["name"].startswith("client-30/70.own.")
    assert case["counted"] is None
    assert case["client_error_pp"] is None
    assert sum(case["charged"]) == pytest.approx(1, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("lie", [1, 2])
def test_a_program_that_lies_about_its_work_is_found_out(
    native_dir: Path, tmp_path: Path, busy: str, lie: int
) -> None:
    """It counts as ours does; the one of 70 % may say that its kernels are twice as long."""
    program = tmp_path / "client"
    program.write_text(
        f"#!/bin/sh\n[ $1 = 70 ] && ns=$((202000 * {lie})) || ns=202000\n"
        f'echo "{{\\"pid\\": $$, \\"kernel_ns\\": $ns}}"\nexec {busy}\n'
    )
    program.chmod(0o755)
    own = ["--client", f"{program} {{share}}", "--seconds", "2", "--repeat", "1"]
    status, found, _ = _bench(native_dir, "share", *own)
    figures = {violation["figure"] for violation in found["violations"]}
    (case,) = found["cases"]
    if lie == 1:
        # As near to the engine's own count as a host is that does other things as well.
        assert case["client_error_pp"] < 5
    else:
        assert status == 1
        assert figures >= {"counted_off_pp", "client_error_pp"}
        assert case["client_error_pp"] > 5


@pytest.mark.slow
def test_bench_share_says_why_a_program_did_not_run(native_dir: Path) -> None:
    status, found, _ = _bench(native_dir, "share", "--client", "false {share}", "--seconds", "1")
    assert status == 1
    assert "ended" in found["error"]["text"]


@pytest.mark.slow
def test_bench_latency_says_all_its_fields(native_dir: Path) -> None:
    status, found, _ = _bench(native_dir, "latency", "--quick", "--seconds", "2")
    assert found["label"] == LABEL
    for figure in ("p99_solo_ms", "p99_native_ms", "p99_harp_ms", "inflation", "best_effort_ratio"):
        assert found[figure] > 0, figure
    assert found["inflation"] == pytest.approx(found["p99_harp_ms"] / found["p99_solo_ms"], 0.01)
    # alone a request is never faster than its kernels
    assert found["p50_solo_ms"] >= 10
    assert {target["figure"] for target in found["targets"]} == {"inflation", "best_effort_ratio"}
    assert status == (0 if found["ok"] else 1)


@pytest.mark.slow
def test_bench_crash_says_all_its_fields(native_dir: Path) -> None:
    status, found, errors = _bench(native_dir, "crash", "--deaths", "2", "--upgrades", "1")
    assert LABEL in errors
    assert found["label"] == LABEL
    assert found["software"] is True
    assert (found["deaths"], found["upgrades"]) == (2, 1)
    assert (found["neighbour_oom"], found["failed_calls"], found["over_limit_bytes"]) == (0, 0, 0)
    assert found["calls"] > 1000
    for figure in ("detect_ms_p99", "longest_stall_ms", "host_stall_ms", "samples_per_s"):
        assert found[figure] > 0, figure
    for one in found["each"]:
        # Told of at once; the device keeps what the dead held for 150 ms, and nobody has it before.
        assert one["killed_ns"] < one["heard_ns"] < one["back_ns"]
        assert one["got_ns"] > one["killed_ns"] + 100_000_000
    assert {t["figure"] for t in found["targets"]} >= {"detect_ms_p99", "regrant_ms_p99"}
    assert found["ok"] is (not found["violations"])
    assert status == (0 if found["ok"] else 1)


@pytest.mark.slow
def test_bench_oversub_says_all_its_fields(native_dir: Path) -> None:
    status, found, errors = _bench(native_dir, "oversub", "--quick")
    assert LABEL in errors
    assert found["label"] == LABEL
    assert found["software"] is True
    (pair,) = found["pairs"]
    assert pair["name"] == "bursty.h100-mini"
    # Both had 80 % of the device, and never more than it has.
    assert 2 * pair["each_bytes"] > 1.5 * pair["memory_bytes"]
    assert pair["each_bytes"] < pair["peak_bytes"] <= pair["memory_bytes"]
    assert pair["swaps"] > 0
    assert 1 < found["bound"] < 2
    assert found["speedup_vs_sequential"] > 0
    assert found["swap_ratio"] > 0
    assert found["longest_wait_s"] >= 0
    assert found["can_tell"] is True
    assert found["control"]["refused"] in {1, 2}  # each may have taken what the other lacks
    assert found["control"]["found_wrong"] == 1
    assert {t["figure"] for t in found["targets"]} == {"speedup_vs_sequential", "swap_ratio"}
    # What a busy host does to times is the only reason left to fail.
    assert {v["figure"] for v in found["violations"]} <= {"sample_ms", "overrun_ratio"}
    assert found["ok"] is (not found["violations"])
    assert status == (0 if found["ok"] else 1)


@pytest.mark.parametrize("mode", ["saturate", "sync", "graph", "requests"])
def test_the_client_counts_what_the_engine_does(
    busy: str, native_dir: Path, soft_env: dict[str, str], mode: str
) -> None:
    done = subprocess.run(
        [busy, "--mode", mode, "--seconds", "1", "--report-ms", "1"],
        env=soft_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    counts = [line["iterations"] for line in said if "iterations" in line]
    ledger = json.loads(
        subprocess.run(
            [native_dir / "harp-soft-truth"], env=soft_env, capture_output=True, check=True
        ).stdout
    )
    (process,) = ledger["processes"]
    assert process["pid"] == said[0]["pid"]
    assert counts == sorted(counts)
    # all but the first one, and what was queued when the second was over
    assert process["launches"] - 200 <= counts[-1] < process["launches"]


def test_the_same_seed_brings_the_same_requests(busy: str, soft_env: dict[str, str]) -> None:
    def gaps(seed: int) -> list[int]:
        command = [busy, "--mode", "requests", "--requests", "20", "--rate", "500"]
        done = subprocess.run(
            [*command, "--request-kernels", "1", "--kernel-us", "10", "--seed", str(seed)],
            env=soft_env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said = [json.loads(line) for line in done.stdout.splitlines()]
        arrived = [line["arrived_ns"] for line in said if "request" in line]
        assert len(arrived) == 20
        return [round((b - a) / 1000) for a, b in pairwise(arrived)]

    first, again, other = gaps(7), gaps(7), gaps(8)
    assert max(abs(a - b) for a, b in zip(first, again, strict=True)) <= 1
    assert max(abs(a - b) for a, b in zip(first, other, strict=True)) > 1


def test_a_client_ends_with_who_started_it(busy: str, soft_env: dict[str, str]) -> None:
    with subprocess.Popen(
        [busy, "--go"], env=soft_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        assert "ready" in client.stdout.readline()
        client.stdin.write("g")
        client.stdin.close()
        assert client.wait(30) == 1


def test_a_program_that_is_stopped_says_how_long_it_stood_still(
    native_dir: Path, soft_env: dict[str, str]
) -> None:
    """As long as one call: between calls it does next to nothing."""
    with subprocess.Popen(
        [native_dir / "harp-bench-churn"],
        env=soft_env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as churn:
        assert churn.stdout is not None
        assert churn.stdin is not None
        assert json.loads(churn.stdout.readline())["ready"] is True
        churn.stdin.write("\n")
        churn.stdin.flush()
        for _ in range(5):
            time.sleep(0.05)
            churn.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            churn.send_signal(signal.SIGCONT)
        churn.stdin.close()
        said = json.loads(churn.stdout.readline())
        assert churn.wait(30) == 0
    assert said["failed"] == 0
    assert said["calls"] > 100
    assert said["stall_ns"] > 150_000_000


@pytest.mark.parametrize(
    "wrong", [["--kernel-us", "0"], ["--mode", "x"], ["--rate"], ["--nosuch"], ["--seed", "1x"]]
)
def test_the_client_refuses_what_it_does_not_know(busy: str, wrong: list[str]) -> None:
    done = subprocess.run([busy, *wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


@pytest.mark.slow
def test_bench_memory_sees_limits_kept_and_passed_without_harp(native_dir: Path) -> None:
    """The sampler is the judge: it must see what nobody keeps from passing."""
    status, found, errors = _bench(native_dir, "memory", "--quick")
    assert LABEL in errors
    assert found["software"] is True
    assert found["over_limit_bytes"] == 0
    for race in found["races"]:
        assert race["peak_bytes"] <= race["limit_bytes"]
        assert race["samples"] > 0
        assert race["denied"] > 0
        assert (race["wrong_codes"], race["left_bytes"]) == (0, 0)
    assert found["control"]["over_limit_bytes"] > 0
    assert found["can_tell"] is True
    # A sampler that a busy host held up is the only reason left to fail.
    assert {one["figure"] for one in found["violations"]} <= {"sample_ms"}
    assert found["ok"] is (not found["violations"])
    assert status == (0 if found["ok"] else 1)
    assert [calls["live"] for calls in found["calls"]] == [0, 500]
    for figure in ("alloc_added_us_p50", "alloc_added_us_p99", "init_ms_p99_1", "init_ms_p99_256"):
        assert isinstance(found[figure], float), figure
    names = [start["name"] for start in found["starts"]]
    assert len(names) == 5
    assert "start.256.together" in names


@pytest.mark.slow
def test_bench_remote_says_all_its_fields(native_dir: Path) -> None:
    if not (native_dir / "harp-link").exists():
        pytest.skip("harp-link is not built: libnghttp2-dev or libssl-dev is missing")
    status, found, errors = _bench(native_dir, "remote", "--quick")
    assert LABEL in errors
    assert (found["bench"], found["label"], found["software"]) == ("remote", LABEL, True)
    # The verdict is the figures' and the status the verdict's, whatever they are on a busy host.
    assert found["ok"] is (not found["violations"] and found["can_tell"])
    assert status == (0 if found["ok"] else 1)
    assert found["can_tell"] is True, found
    names = ["rtt", "shm", "bulk", "rtt_tls", "bulk_tls"]
    assert [one["name"] for one in found["compared"]] == names
    assert found["launches_1000_rt"] == 1
    # Ten times worse than what is promised is not a busy host.
    assert found["back_s"] < 30
    assert found["async_us"] < 20
    assert all(0 < ratio < 20 for ratio in (found["rtt_ratio"], found["rtt_tls_ratio"]))
    if not found["not_run"]:
        assert [step["delay_ms"] for step in found["steps"]] == [0.0, 0.2, 1.0]
        # A call that waits goes there and comes back.
        assert all(step["rtt_us"] >= 2000 * step["delay_ms"] for step in found["steps"])
