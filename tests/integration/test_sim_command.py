# SPDX-License-Identifier: Apache-2.0
"""`harp sim time` as it is typed, with the installed policy core."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harp.cli.main import cli
from harp.errors import BuildMissing, ConfigError

TOML = """
seconds = 1
[[tenant]]
name = "chat"
class = "latency"
load = "request"
rate_hz = 100
queue = 2
[[tenant]]
name = "train"
share = "50%"
"""


@pytest.fixture
def env(native_dir: Path) -> dict[str, str]:
    return {"HARP_NATIVE_DIR": str(native_dir)}


def sim(env: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sim", "time", *arguments], env=env)


def test_json_is_one_object_and_the_same_for_the_same_seed(env: dict[str, str]) -> None:
    first, second, third = (
        sim(env, "--tenants", "30", "--seconds", "1", "--seed", seed, "--json").stdout
        for seed in ("1", "1", "2")
    )
    assert first == second
    assert first != third
    (line,) = first.splitlines()
    found = json.loads(line)
    assert set(found) == {"policy", "seconds", "seed", "quantum_us", "tenants", "aggregate"}
    assert len(found["tenants"]) == 30
    names = {"name", "class", "requested_ratio", "achieved_ratio", "charged_ratio", "wait_max_ms"}
    assert names <= set(found["tenants"][0])


def test_a_scenario_file_is_run_and_options_win_over_it(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TOML)
    done = sim(env, "--scenario", str(path), "--policy", "priority", "--json")
    found = json.loads(done.stdout)
    assert (found["policy"], found["seconds"]) == ("priority", 1.0)
    chat, train = found["tenants"]
    assert chat["class"] == "latency"
    assert chat["served"] > 50
    assert chat["latency_p99_ms"] > 0.4
    assert train["requested_ratio"] == 0.5
    text = sim(env, "--scenario", str(path)).output
    assert "train" in text
    assert "a model, not a GPU result" in text
    assert "2 tenants, 1 s simulated in" in text


def test_shares_are_typed_with_and_without_percent(env: dict[str, str]) -> None:
    found = json.loads(sim(env, "--shares", "25, 75%", "--seconds", "0.1", "--json").stdout)
    assert [t["requested_ratio"] for t in found["tenants"]] == [0.25, 0.75]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tenants", "3", "--shares", "10,90"],
        ["--tenants", "3", "--kernel-us", "10"],
        ["--tenants", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(env: dict[str, str], arguments: list[str]) -> None:
    assert sim(env, *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["--tenants", "9999"], "9999 tenants", "1 to 4096"),
        (["--shares", "10,x"], "'x%' is not a percentage", "write 30%"),
        (["--tenants", "3", "--policy", "cfs"], "policy = 'cfs'", "drr|priority|fifo"),
        (["--shares", "10", "--quantum-us", "1"], "quantum_us = 1", "1000 to 50000"),
        (["--scenario", "nowhere.toml"], "cannot read the scenario nowhere.toml", "--help"),
    ],
)
def test_an_error_names_value_limit_and_remedy(
    env: dict[str, str], arguments: list[str], says: str, hint: str
) -> None:
    error = sim(env, *arguments).exception
    assert isinstance(error, ConfigError)
    assert says in error.message
    assert hint in error.hint


def test_a_missing_core_says_how_to_build_it(tmp_path: Path) -> None:
    error = sim({"HARP_NATIVE_DIR": str(tmp_path)}, "--tenants", "2").exception
    assert isinstance(error, BuildMissing)
    assert "libharp-arbiter-core.so is not there" in error.message


def test_help_lists_every_key_of_a_scenario(env: dict[str, str]) -> None:
    text = sim(env, "--help").output
    for key in ("quantum_us", "kernel_us", "rate_hz", "at_s", "[[tenant]]", "default 200.0"):
        assert key in text
