# SPDX-License-Identifier: Apache-2.0
"""The command line without a daemon: table of commands, usage, errors, pictures."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from harp.api.v1 import control_pb2 as pb
from harp.cli.change import in_force
from harp.cli.checks import Check, Verdict, machine
from harp.cli.main import COMMANDS, cli
from harp.cli.run import run
from harp.cli.top import render
from harp.cli.view import (
    memory_notes,
    short_size,
    swapping_lines,
    tenant_json,
    where_memory_is,
)
from harp.rundir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def harp(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harp", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_json(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command
    assert command.name == name
    assert command.help
    if isinstance(command, click.Group):
        commands = [command.get_command(click.Context(command), n) for n in command.commands]
    else:
        commands = [command]
    for one in commands:
        assert one
        assert "--json" in {o for p in one.params for o in p.opts}, one.name


def test_trace_data_takes_a_size_or_none() -> None:
    """What follows `--` is the program's, also where the option has no size."""

    def parsed(*words: str) -> tuple[object, object]:
        params = run.make_context("run", ["--trace", "t", *words]).params
        return params["trace_data"], params["command"]

    assert parsed("--", "cmd", "--trace-data") == (None, ("cmd", "--trace-data"))
    assert parsed("--trace-data", "--", "cmd") == (64 << 10, ("cmd",))
    assert parsed("--trace-data", "1MiB", "--", "cmd") == (1 << 20, ("cmd",))
    done = harp("run", "--trace-data", "--", "true")
    assert done.returncode == 2
    assert "--trace FILE" in done.stderr


def test_help_lists_all_commands_and_says_nothing_on_stderr() -> None:
    done = harp("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "--mem", "8GB", "--", "true"],
        ["run", "--share", "0%", "--", "true"],
        ["run", "--class", "royal", "--", "true"],
        ["set", "x"],
        ["run", "--gpu", "0", "--mem", "1GB", "--", "true"],
        ["daemon", "--stop", "--status"],
        ["daemon", "--all"],
        ["top", "--sort", "colour"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2, result.output


def test_an_error_is_one_line_and_a_hint(tmp_path: Path) -> None:
    done = harp("ps", env={"HARP_RUN": str(tmp_path / "none")})
    assert done.returncode == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("harp: no harpd runs in")
    assert second == "hint: start one: harp daemon"


def test_an_error_is_json_where_json_was_asked(tmp_path: Path) -> None:
    done = harp("ps", "--json", env={"HARP_RUN": str(tmp_path / "none")})
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["error"]["kind"] == "DaemonUnreachable"


def test_run_exits_as_env_does_when_the_program_cannot_be_run(tmp_path: Path) -> None:
    env = {"HARP_RUN": str(tmp_path / "none")}
    assert harp("run", "--", "no-such-program", env=env).returncode == 127
    (tmp_path / "plain").write_text("x")
    assert harp("run", "--", str(tmp_path / "plain"), env=env).returncode == 126
    assert harp("run", "--", str(tmp_path), env=env).returncode == 126


def _state(tenants: int, uncovered: int = 0) -> pb.GetStateReply:
    return pb.GetStateReply(
        devices=[
            pb.Device(
                index=0,
                uuid="GPU-1",
                name="HARP Software GPU (H100 80GB model)",
                kind=pb.DEVICE_KIND_SOFTWARE,
                memory_bytes=80 << 30,
                used_bytes=3 << 30,
                promised_ppm=1_000_000,
            )
        ],
        tenants=[
            pb.Tenant(
                name=f"a-tenant-with-a-long-name-{n}",
                user="somebody-long",
                device_uuids=["GPU-1"],
                tenant_class=pb.TENANT_CLASS_BEST_EFFORT,
                mem_limit_bytes=(8 << 30) + (1 << 20),
                leased_bytes=n << 30,
                share_ppm=125_000,
                limit_ppm=999_999,
                used_ratio=n / 100,
                window_s=10,
                wait_ns=n * 10**12,
            )
            for n in range(tenants)
        ],
        uncovered=[
            pb.Uncovered(pid=n, name="miner", tenant="", mem_bytes=1 << 30, action="seen")
            for n in range(uncovered)
        ],
    )


def _lines(state: pb.GetStateReply, sort: str = "used") -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80, height=24).print(render(state, sort, 24))
    return out.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(("tenants", "uncovered"), [(0, 0), (3, 0), (40, 0), (40, 9)])
def test_top_fits_a_small_terminal(tenants: int, uncovered: int) -> None:
    lines = _lines(_state(tenants, uncovered))
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert "software" in lines[0]


def test_top_sorts_and_says_how_many_are_left_out() -> None:
    lines = _lines(_state(40))
    assert lines[2].split()[7] == "39.0%"
    assert lines[-1].endswith("more")
    assert _lines(_state(5), "mem")[2].split()[4] == "4GiB"


def test_top_shows_class_and_all_gpus_of_a_tenant() -> None:
    state = _state(1)
    state.devices.add(index=1, uuid="GPU-2")
    state.tenants[0].device_uuids[:] = ["GPU-2", "GPU-1", "GPU-9"]
    state.tenants[0].user = "u"
    assert _lines(state)[3].split()[2:4] == ["1,0,?", "b-eff"]


def _tenant(**fields: object) -> pb.Tenant:
    return pb.Tenant(
        name="t",
        device_uuids=["GPU-2", "GPU-1"],
        mem_limit_bytes=1 << 30,
        share_ppm=300_000,
        tenant_class=pb.TENANT_CLASS_LATENCY,
        uses=[
            pb.DeviceUse(uuid="GPU-2", used_ns=7, estimated_ns=3, used_ratio=0.25),
            pb.DeviceUse(uuid="GPU-1"),
        ],
        **fields,  # type: ignore[arg-type]
    )


_DEVICES = {
    "GPU-1": pb.Device(index=0, uuid="GPU-1", kind=pb.DEVICE_KIND_SOFTWARE),
    "GPU-2": pb.Device(index=1, uuid="GPU-2", kind=pb.DEVICE_KIND_SOFTWARE),
}


def test_json_tells_each_gpus_use_apart() -> None:
    found = tenant_json(_tenant(estimated_ns=3), _DEVICES)
    assert (found["gpu"], found["gpus"], found["gang"]) == (1, [1, 0], True)
    assert (found["class"], found["estimated_ns"]) == ("latency", 3)
    assert tenant_json(_tenant(no_gang=True), _DEVICES)["gang"] is False
    devices = found["devices"]
    assert isinstance(devices, list)
    assert [(d["gpu"], d["used_ns"], d["estimated_ns"]) for d in devices] == [(1, 7, 3), (0, 0, 0)]


def test_who_is_suspended_is_shown_by_top() -> None:
    state = _state(2)
    state.tenants[1].suspended, state.tenants[1].host_bytes = True, 3 << 30
    name = state.tenants[1].name
    assert [x for x in _lines(state) if "suspended" in x] == [
        f"suspended: {name}, 3GiB on the host"
    ]


def test_who_is_away_is_shown_with_how_long_and_what_swapping_costs() -> None:
    away = pb.Residency(
        state=pb.RESIDENCY_STATE_AWAY,
        swap_bytes=5,
        away_ns=45_000_000_000,
        away_now_ns=12_300_000_000,
        swapping_ns=2_000_000_000,
        swaps=4,
        stay_ns=5_000_000_000,
    )
    tenant = _tenant(oversubscribe=True)
    tenant.uses[1].residency.CopyFrom(away)
    assert where_memory_is(tenant) == "away 12.3s"
    [line] = swapping_lines(tenant, _DEVICES, tenant.created_s + 100)
    assert "away 45.0s in all, 4 swaps in 2.0% of the time, stays 5.0s" in line
    found = tenant_json(tenant, _DEVICES)
    assert found["oversubscribe"] is True
    devices = found["devices"]
    assert isinstance(devices, list)
    assert devices[0]["residency"] is None
    assert devices[1]["residency"]["state"] == "away"
    state = _state(40)
    for each in state.tenants:
        each.uses.add(uuid="GPU-1").residency.CopyFrom(away)
    lines = _lines(state)
    assert len(lines) <= 24
    assert lines[-1].startswith("swapping: a-tenant-with-a-long-name")


def test_nothing_is_said_of_who_never_left() -> None:
    at_home = pb.Residency(state=pb.RESIDENCY_STATE_RESIDENT, swap_bytes=5, stay_ns=1)
    tenant = _tenant(oversubscribe=True)
    tenant.uses[0].residency.CopyFrom(at_home)
    assert where_memory_is(tenant) == ""
    assert swapping_lines(tenant, _DEVICES, 1e9) == []
    assert where_memory_is(_tenant()) == ""


def test_set_says_what_is_in_force() -> None:
    assert in_force(_tenant(no_gang=True), _DEVICES) == (
        "t: GPU 1,0 each: memory 1GiB, share 30%, limit none, class latency, gang off"
    )


def test_the_doctor_names_settings_that_are_not_in_force() -> None:
    info = pb.GetInfoReply(time_policy="drr", quantum_us=5000, burst_us=50_000)
    (good,) = (c for c in _checks(info) if c.name == "GPU time")
    assert good.verdict is Verdict.OK
    assert good.text == "policy drr, quantum 5000 us, burst 50000 us"
    info.time_stale = "time.policy is drr, set is fifo"
    (stale,) = (c for c in _checks(info) if c.name == "GPU time")
    assert stale.verdict is Verdict.WARN
    assert "set is fifo" in stale.text
    assert stale.remedy.startswith("harp daemon --upgrade")


def _checks(info: pb.GetInfoReply) -> list[Check]:
    return list(machine(RunDir(Path("/nowhere")), info, pb.GetStateReply(), "1"))


def test_top_shouts_what_evades() -> None:
    assert "UNCOVERED pid 0 miner outside HARP" in _lines(_state(1, 1))[-1]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "-"), (1, "1B"), (1 << 20, "1MiB"), (1000 << 20, "1.0GiB"), (84943044608, "79.1GiB")],
)
def test_short_sizes_fit_seven_columns(size_bytes: int, text: str) -> None:
    assert short_size(size_bytes) == text


def test_ps_says_what_its_table_does_not_show_of_memory() -> None:
    devices = {"GPU-b": pb.Device(index=3, uuid="GPU-b")}
    uses = [
        pb.DeviceUse(uuid="GPU-a", over_limit_bytes=6 << 28),
        pb.DeviceUse(uuid="GPU-b", unleased_bytes=12 << 20),
        pb.DeviceUse(uuid="GPU-b"),
    ]
    tenant = pb.Tenant(name="t", uses=uses, host_limit_bytes=1 << 30, host_leased_bytes=1 << 20)
    assert memory_notes(tenant, devices) == [
        "t: over its limit by 1.5GiB on a GPU that is gone: no new memory",
        "t: 12MiB of code, heaps and local memory count against its limit on GPU 3",
        "t: 1MiB of 1GiB pinned host memory",
    ]
    assert memory_notes(pb.Tenant(name="t", uses=[pb.DeviceUse(uuid="GPU-b")]), devices) == []


def test_bench_lists_its_cells_and_how_long_they_take() -> None:
    done = harp("bench", "share", "--list", "--cell", "sync-*")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "sync-30/70.200us.2000us.20us"
    assert "not evidence for hardware" in done.stdout
    done = harp("bench", "share", "--list")
    assert " min (" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--shares", "60,70"), 2, "100 at most"),
        (("--shares", "30,x"), 2, "30,x"),
        (("--shares", "0,70"), 2, "at least 1"),
        (("--slice-us", "100", "--shares", "30,70"), 2, "100"),
        (("--cell", "nosuch"), 1, "no cell is called nosuch"),
    ],
)
def test_bench_refuses_what_cannot_be_run(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = harp("bench", "share", *arguments)
    assert done.returncode == status
    assert said in done.stderr
