# SPDX-License-Identifier: Apache-2.0
"""What the chart starts is there, and takes what it is given; what both know is the same."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHART, Template, containers, of_kind, pods
from scenarios import SCENARIOS

import harp
from device_plugin import remote_plugin as remote
from device_plugin.settings import Settings
from device_plugin.slots import SLOTS_PER_GPU
from harp.cli.sim_place import POLICY_NAMES
from harp.config import all_keys
from harp.extender import app as extender
from harp.remote import uids
from harp.softgpu.machine import PROFILES

HARP = Path(sys.executable).with_name("harp")
#: of other people's programs
_OTHERS = {"kube-scheduler"}


@functools.cache
def _help(*command: str) -> str:
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _installed(command: list[str]) -> list[str]:
    names = {"harp": str(HARP), "python3": sys.executable}
    return [names.get(command[0], command[0]), *command[1:]]


@pytest.mark.parametrize("name", SCENARIOS)
def test_programs_are_there_and_know_the_options(template: Template, name: str) -> None:
    for owner, pod in pods(template(SCENARIOS[name])):
        for container in containers(pod):
            command = _installed(container["command"])
            if command[0] in _OTHERS or "-c" in command or command[-1].endswith(".py"):
                continue
            arguments = container["args"]
            words = [a for a in arguments if not a.startswith("-")]
            text = _help(*command, *words)
            for option in (a.partition("=")[0] for a in arguments if a.startswith("-")):
                known = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
                assert known, f"{owner} {container['name']}: {' '.join(words)} knows no {option}"


def test_the_settings_of_harpd_are_its_own(template: Template) -> None:
    known = {key.name: key for key in all_keys()}
    for values in SCENARIOS.values():
        for _, pod in pods(template(values)):
            for container in containers(pod):
                for argument in container.get("args", ()):
                    if argument.startswith("--set="):
                        key, _, value = argument.removeprefix("--set=").partition("=")
                        known[key].check(value, "the chart")


def test_the_software_gpu_has_a_folder_of_its_own(template: Template) -> None:
    """Not one that a program of ours puts libraries into, and takes out what is old."""
    serve = {"enabled": True, "secretName": "node-tls"}
    values = {"softwareGpu": {"enabled": True}, "remote": {"serve": serve}}
    seen = 0
    for _, pod in pods(template(values)):
        for container in containers(pod):
            env = {one["name"]: one.get("value") for one in container.get("env", ())}
            if "HARP_SOFT_DIR" in env:
                seen += 1
                taken = {
                    f"{env['HARP_RUN']}/{name}" for name in ("shim", "soft", "grants", "remote")
                }
                assert env["HARP_SOFT_DIR"] not in taken
    assert seen == 3


def test_numbers_and_names_are_those_of_the_programs(template: Template) -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert schema["slotsPerGPU"]["enum"] == list(SLOTS_PER_GPU)
    policy = schema["extender"]["properties"]["policy"]["enum"]
    assert sorted(policy) == sorted(POLICY_NAMES)
    assert values["extender"]["policy"] == POLICY_NAMES[0]
    assert values["remote"]["serve"]["workerUids"] == str(uids.DEFAULT)
    assert values["remote"]["pods"]["slots"] == remote.RemoteSettings().slots
    usual = Settings()
    assert values["hostPaths"] == {
        "run": str(usual.run_dir),
        "state": str(usual.state_dir),
        "kubelet": str(usual.kubelet_dir),
    }
    devices = schema["softwareGpu"]["properties"]["devices"]["pattern"]
    assert devices == "^(({0})(,({0})){{0,7}})?$".format("|".join(PROFILES))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == harp.__version__
    objects = template(SCENARIOS["own scheduler"])
    (role,) = of_kind(objects, "Role")
    assert role["rules"][1]["resourceNames"] == [extender.LEASE]
    ((_, cleanup), _) = pods(template(SCENARIOS["cleanup"]))
    removed = {Path(a).name for a in cleanup["containers"][0]["args"]}
    assert {usual.endpoint, remote.RemoteSettings().endpoint} <= removed
