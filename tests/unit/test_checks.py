# SPDX-License-Identifier: Apache-2.0
"""The doctor's checks on made-up machines."""

from __future__ import annotations

import os
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.cli.checks import Verdict, machine, process
from harp.rundir import RunDir

INFO = pb.GetInfoReply(version="1", kind=pb.DEVICE_KIND_NVIDIA, arbiter_pid=os.getpid())


def found(state: pb.GetStateReply, tmp_path: Path) -> dict[str, tuple[Verdict, str]]:
    return {c.name: (c.verdict, c.text) for c in machine(RunDir(tmp_path), INFO, state, "1")}


def test_refused_names_are_counted_once_a_process(tmp_path: Path) -> None:
    (tmp_path / "shim.log").write_text(
        '1.0 harp pid=7 unknown_name name=cuFoo withheld=1 why="x"\n'
        '1.0 harp pid=7 unknown_name name=cuFoo withheld=8 why="x"\n'
        '1.0 harp pid=8 unknown_name name=cuFoo withheld=1 why="x"\n'
        '1.0 harp pid=8 unknown_name name=cuBar_v2 withheld=2 why="x"\n'
        "1.0 harp pid=8 arbiter_back\n"
    )
    state = pb.GetStateReply(tenants=[pb.Tenant(name="t", grant_dir=str(tmp_path))])
    verdict, text = found(state, tmp_path)["unknown names"]
    assert verdict is Verdict.WARN
    assert text.startswith("2 driver functions were refused 11 times")
    assert "cuBar_v2, cuFoo" in text
    assert "unknown names" not in found(pb.GetStateReply(), tmp_path)


def test_a_dead_arbiter_and_an_unmeasured_context_are_said(tmp_path: Path) -> None:
    state = pb.GetStateReply(devices=[pb.Device(name="H100", context_source="default")])
    INFO.arbiter_pid = 2**22 + 1
    try:
        checks = found(state, tmp_path)
    finally:
        INFO.arbiter_pid = os.getpid()
    assert checks["arbiter"][0] is Verdict.FAIL
    assert checks["GPU 0"][0] is Verdict.WARN
    assert "cudart" not in checks


def test_memory_that_is_elsewhere_is_said_with_the_remedy(tmp_path: Path) -> None:
    away = pb.Residency(state=pb.RESIDENCY_STATE_AWAY, swaps=2, away_ns=10**9)
    stays = pb.Residency(state=pb.RESIDENCY_STATE_RESIDENT, stuck=True)
    state = pb.GetStateReply(
        now_s=10,
        tenants=[
            pb.Tenant(name="a", suspended=True, host_bytes=3 << 30),
            pb.Tenant(name="b", uses=[pb.DeviceUse(residency=away)]),
            pb.Tenant(name="c", uses=[pb.DeviceUse(residency=stays)], grant_dir="/g"),
            pb.Tenant(name="d", host_limit_bytes=2 << 30, host_leased_bytes=2 << 30),
            pb.Tenant(name="e", host_limit_bytes=2 << 30),
        ],
    )
    said = [
        (c.name, c.verdict, c.text.split(":")[-2 if c.name == "oversubscription" else 0], c.remedy)
        for c in machine(RunDir(tmp_path), INFO, state, "1")
        if c.name in ("suspended", "oversubscription", "pinned memory")
    ]
    assert said == [
        ("suspended", Verdict.NOTE, "a", "harp resume a"),
        ("oversubscription", Verdict.NOTE, " b on GPU ?", ""),
        ("oversubscription", Verdict.WARN, " c on GPU ?", "/g/shim.log says why it stays"),
        (
            "pinned memory",
            Verdict.WARN,
            "d",
            "harp set d --host-mem ..., or free some in the program",
        ),
        ("pinned memory", Verdict.OK, "e", ""),
    ]


def test_what_an_upgrade_would_mend_is_said(tmp_path: Path) -> None:
    (tmp_path / "harp-arbiter").touch()
    info = pb.GetInfoReply()
    info.CopyFrom(INFO)
    info.native_dir, info.time_stale = str(tmp_path), "time.policy is drr, set is fifo"
    state = pb.GetStateReply()
    checks = {c.name: c for c in machine(RunDir(tmp_path), info, state, "2")}
    for name in ("harpd", "arbiter", "GPU time"):
        assert checks[name].verdict is Verdict.WARN
        assert checks[name].remedy.startswith("harp daemon --upgrade")
    assert os.path.realpath("/proc/self/exe") in checks["arbiter"].text


def test_strangers_names_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    state = pb.GetStateReply(uncovered=[pb.Uncovered(pid=7, name="\x1b[2Jx", action="seen")])
    verdict, text = found(state, tmp_path)["uncovered"]
    assert verdict is Verdict.WARN
    assert "?[2Jx" in text
    assert "\x1b" not in text


def test_a_process_that_is_not_there() -> None:
    (only,) = process(2**22 + 1, pb.GetStateReply())
    assert only.verdict is Verdict.FAIL
