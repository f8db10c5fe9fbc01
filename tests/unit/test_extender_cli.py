# SPDX-License-Identifier: Apache-2.0
"""`harp scheduler serve`, and the configuration of kube-scheduler that we hand out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from harp.cli.scheduler import scheduler
from harp.extender import bind
from harp.extender.objects import RESOURCE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_configuration_that_we_hand_out(version: str) -> None:
    text = (ROOT / f"deploy/scheduler/kube-scheduler-{version}.yaml").read_text()
    told = yaml.safe_load(text)
    assert told["apiVersion"] == f"kubescheduler.config.k8s.io/{version}"
    (extender,) = told["extenders"]
    calls = {extender[f"{verb}Verb"] for verb in ("filter", "prioritize", "bind")}
    assert calls == {"filter", "prioritize", "bind"}
    assert extender["managedResources"][0]["name"] == RESOURCE
    # it may not give up before a binding's own patience is over
    assert extender["httpTimeout"] == "5s"
    assert 2 * bind._GET_S + bind._POST_S < 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bind", "8888"], "is no HOST:PORT"),
        (["--metrics", "x:y"], "--metrics 'x:y' is no HOST:PORT"),
        (["--tls-cert", "/x"], "go together"),
        (["--kubeconfig", "/nowhere"], "no API server is known by /nowhere"),
        (["--kubeconfig", "in-cluster"], "no API server is known by in-cluster"),
        (["--policy", "x"], "is not one of"),
    ],
)
def test_the_command_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(scheduler, ["serve", *arguments])
    assert result.exit_code != 0
    assert said in f"{result.output} {result.exception}"
