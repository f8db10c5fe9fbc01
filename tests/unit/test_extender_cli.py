# SPDX-License-Identifier: Apache-2.0
"""`harp scheduler serve`, and the configuration of kube-scheduler that we hand out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from fake_kube import FakeKube, served
from test_kube_client import kubeconfig, wait_for

from harp.cli.scheduler import scheduler
from harp.errors import ConfigError
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
    assert extender["tlsConfig"].keys() == {"caFile", "certFile", "keyFile"}
    # it may not give up before a binding's own patience is over
    assert extender["httpTimeout"] == "15s"
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


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "node.example.org"])
def test_nobody_binds_over_the_network_without_a_certificate(host: str, tmp_path: Path) -> None:
    name = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", {})
    asked = ["serve", "--kubeconfig", name, "--bind", f"{host}:0"]
    half = [*asked, "--tls-cert", str(tmp_path / "x"), "--tls-key", str(tmp_path / "x")]
    for arguments in (asked, half):
        error = CliRunner().invoke(scheduler, arguments).exception
        assert isinstance(error, ConfigError)
        assert "could bind pods" in error.message
        assert "--tls-client-ca" in error.hint
        assert "certFile" in error.hint
    whole = CliRunner().invoke(scheduler, [*half, "--tls-client-ca", str(tmp_path / "x")])
    assert "cannot be used" in str(whole.exception)  # now the files themselves are looked at


LEASE = "/apis/coordination.k8s.io/v1/namespaces/mine/leases/harp-scheduler-extender"


def test_a_process_of_it_ends_when_it_is_told_and_gives_up_the_lease(tmp_path: Path) -> None:
    kube = FakeKube()
    with served(kube) as url:
        name = kubeconfig(tmp_path / "config", url, {"token": "t"})
        command = [
            sys.executable,
            "-m",
            "harp",
            "scheduler",
            "serve",
            "--kubeconfig",
            name,
            "--json",
        ]
        with subprocess.Popen(
            [*command, "--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--json-log"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said.keys() == {"bind", "metrics", "policy"}
            wait_for(lambda: LEASE in kube.objects)
            assert kube.objects[LEASE]["spec"]["holderIdentity"]
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert all(json.loads(line)["event"] for line in log.splitlines())
        assert kube.objects[LEASE]["spec"]["holderIdentity"] is None


@pytest.mark.parametrize("missing", ["kubernetes", "urllib3", "yaml"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """Whichever of what it brings is asked for first."""
    program = f"import sys; sys.modules['{missing}'] = None; from harp.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "scheduler", "serve"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "pip install 'kubernetes>=31'" in ended.stderr
