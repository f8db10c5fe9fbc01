# SPDX-License-Identifier: Apache-2.0
"""All of it at once: harpd, `harp remote serve`, `harp run --remote`, and programs."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from link_session import children
from machine import wait_for
from run_remote_world import Here
from serve_world import MIB, Remote, exe, serving

from harp.api.v1 import remote_pb2 as pb
from harp.remote import authority
from harp.remote.certificate import Kind

FOLDER = Path(__file__).parent
PROGRAM = str(FOLDER / "remote_program.py")
HOLDS = str(FOLDER / "gpu_program.py")
#: as long as `harp run` asks for: a stall of this machine for some seconds ends no lease
TTL_S = 10


@pytest.fixture
def here(native_dir: Path) -> Iterator[Here]:
    with contextlib.closing(Here(native_dir)) as made:
        yield made


@pytest.fixture
def node(native_dir: Path) -> Iterator[Remote]:
    with serving(native_dir) as made:
        yield made


def remote(node: Remote, *options: str) -> list[str]:
    return ["--remote", node.endpoint, "--insecure", *options, "--"]


@pytest.mark.slow
def test_a_command_is_a_tenant_of_the_node(here: Here, node: Remote) -> None:
    limits = ("--mem", "256MiB", "--share", "30%", "--name", "train")
    done = here.run(*remote(node, *limits), sys.executable, PROGRAM, "add", "1000")
    assert json.loads(done.stdout)["right"] is True, done.stderr
    wait_for(lambda: not node.leases(), "the lease's end")
    child = here.ready(*remote(node, *limits), sys.executable, HOLDS, "100")
    wait_for(lambda: len(node.leases()[0]["sessions"]) == 2, "its session, and a spare one")
    (lease,) = node.leases()
    found = node.at.ps(lease["tenant"])
    assert found
    assert (found["mem_limit_bytes"], found["share_ratio"]) == (256 * MIB, 0.3)
    assert [s["program"] for s in lease["sessions"]] == [Path(sys.executable).name] * 2
    more = here.run(*remote(node, "--share", "80%"), "true")
    assert (more.returncode, "70% and" in more.stderr) == (125, True), more.stderr
    child.communicate(timeout=60)
    assert node.leases() == []
    assert node.at.ps(lease["tenant"]) is None
    assert here.left() == []


@pytest.mark.slow
def test_its_kernels_are_known_by_name_on_the_node(here: Here, node: Remote) -> None:
    program = (
        "from tinygrad import Tensor; a = Tensor.rand(32, 32).realize()\n"
        "for _ in range(20): (a @ a).sum().item()\n"
        "print('ready', flush=True); input()\n"
    )
    words = ("env", "DEV=CUDA:PTX", "CC=false", "CACHELEVEL=0", sys.executable, "-c", program)
    child = here.ready(*remote(node, "--name", "far"), *words)
    (lease,) = node.leases()
    told = json.loads(node.at.harp("metrics", "--json").stdout.splitlines()[-1])["families"]
    (runs,) = (m["samples"] for m in told if m["name"] == "harp_grant_kernel_runs_total")
    mine = {s["labels"]["kernel"]: s["value"] for s in runs}
    assert {s["labels"]["tenant"] for s in runs} == {lease["tenant"]}
    assert any(name.startswith("r_") and count >= 20 for name, count in mine.items()), mine
    child.communicate("\n", timeout=60)


@pytest.mark.slow
def test_its_limit_is_that_of_all_its_processes(here: Here, node: Remote) -> None:
    limit = remote(node, "--mem", "256MiB")
    done = here.run(*limit, sys.executable, HOLDS, "300")
    assert (done.returncode, done.stdout) == (3, "cuMemAlloc 2\n")
    script = (
        "import subprocess, sys\n"
        f"holds = [sys.executable, {HOLDS!r}]\n"
        "one = subprocess.Popen([*holds, '200'], stdin=-1, stdout=-1)\n"
        "print(one.stdout.readline())\n"
        "print(subprocess.run([*holds, '100'], stdout=-1, check=False).stdout)\n"
        "one.communicate()\n"
    )
    done = here.run(*limit, sys.executable, "-c", script)
    assert done.stdout == "b'ready\\n'\nb'cuMemAlloc 2\\n'\n", done.stderr


@pytest.mark.slow
def test_a_killed_command_has_nothing_in_three_seconds(here: Here, node: Remote) -> None:
    child = here.ready(*remote(node, "--mem", "512MiB"), sys.executable, HOLDS, "300")
    child.kill()
    wait_for(lambda: node.workers() == [], "the worker's end", 3 * 10)
    assert node.leases(), "it runs on for its ttl, and holds no memory"
    wait_for(lambda: node.at.json("devices")["devices"][0]["leased_bytes"] == 0, "memory", 3 * 10)
    wait_for(lambda: not node.leases(), "the lease's end")


@pytest.mark.slow
def test_the_nodes_end_is_an_error_of_cuda(here: Here, node: Remote) -> None:
    child = here.ready(*remote(node), sys.executable, PROGRAM, "wait")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(timeout=60) == 0
    out, err = child.communicate(timeout=60)
    assert int(out) in (46, 999)
    assert "is lost" in err or "UNAVAILABLE" in err


def test_certificates_hold_for_leases_and_for_calls(
    here: Here, native_dir: Path, tmp_path: Path
) -> None:
    now = dt.datetime.now(dt.UTC)
    authority.init(tmp_path, now)
    authority.issue(tmp_path, Kind.NODE, "n1", hosts=["127.0.0.1"], now=now)
    authority.issue(tmp_path, Kind.CLIENT, "ann", hosts=[], now=now)
    options = ("--dir", str(tmp_path / "node-n1"), "--listen", "127.0.0.1:0")
    with serving(native_dir, *options) as node:
        place = ["--remote", node.endpoint, "--dir", str(tmp_path / "client-ann"), "--"]
        done = here.run(*place, sys.executable, PROGRAM, "add", "1000")
        assert json.loads(done.stdout)["right"] is True, done.stderr
        assert [e["owner"] for e in node.events("lease_taken")] == ["ann"]


def test_a_pools_certificate_may_have_a_name_that_is_none_of_the_nodes(
    here: Here, native_dir: Path, tmp_path: Path
) -> None:
    """As behind a Service of Kubernetes: one name, one certificate, each node at its address."""
    now, name = dt.datetime.now(dt.UTC), "harp-pool.gpu.svc"
    authority.init(tmp_path, now)
    authority.issue(tmp_path, Kind.NODE, name, hosts=[name], now=now)
    authority.issue(tmp_path, Kind.CLIENT, "ann", hosts=[], now=now)
    options = ("--dir", str(tmp_path / f"node-{name}"), "--listen", "127.0.0.1:0")
    with serving(native_dir, *options, "--name", "127.0.0.1") as node:
        place = ["--remote", f"localhost:{node.endpoint.rpartition(':')[2]}"]
        place += ["--dir", str(tmp_path / "client-ann")]
        words = (sys.executable, PROGRAM, "add", "1000")
        done = here.run(*place, "--tls-name", name, "--", *words)
        assert json.loads(done.stdout)["right"] is True, done.stderr
        done = here.run(*place, "--", *words)
        assert done.returncode == 125
        assert "its certificate does not hold for that name" in done.stderr
        assert "--tls-name" in done.stderr


@pytest.mark.slow
def test_a_leases_token_is_enough_for_a_job(here: Here, native_dir: Path, tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    authority.init(tmp_path, now)
    authority.issue(tmp_path, Kind.NODE, "n1", hosts=["127.0.0.1"], now=now)
    authority.issue(tmp_path, Kind.CLIENT, "ann", hosts=[], now=now)
    (trust := tmp_path / "trust").mkdir()
    (trust / "ca.crt").write_bytes((tmp_path / "client-ann" / "ca.crt").read_bytes())
    options = ("--dir", str(tmp_path / "node-n1"), "--listen", "127.0.0.1:0")
    with serving(native_dir, *options, "--token-listen", "127.0.0.1:0") as node:
        pem = [(tmp_path / "client-ann" / f).read_bytes() for f in ("ca.crt", "tls.key", "tls.crt")]
        ann = node.client(grpc.secure_channel(node.endpoint, grpc.ssl_channel_credentials(*pem)))
        lease = ann.lease(mem_limit_bytes=256 * MIB, ttl_s=TTL_S)
        (token := tmp_path / "token").write_text(f"{lease.token}\n")
        place = ["--remote", node.told["token_endpoint"], "--token", str(token)]
        place += ["--dir", str(trust), "--json", "--"]
        # Ours to renew until the job has begun, however long that takes; then the job's alone.
        with ann.renewing(lease):
            waits = f"echo ready; read go; exec {sys.executable} {PROGRAM} add 1000"
            child = here.ready(*place, "sh", "-c", waits)
        time.sleep(TTL_S + 1)
        with ann.renewing(lease):  # which says so if it is over
            out, err = child.communicate("go\n", timeout=60)
            assert json.loads(out)["right"] is True, err
            said = json.loads(err.splitlines()[0])
            assert said["lease"] == lease.lease_id
            assert said["devices"][0]["mem_limit_bytes"] == 256 * MIB
            (left,) = ann.stub.Leases(pb.LeasesRequest(), timeout=30).leases
            assert (left.lease_id, list(left.sessions)) == (lease.lease_id, [])
        ann.release(lease)
        done = here.run(*place, "echo", "started")
        assert (done.returncode, done.stdout) == (125, "")
        assert "the lease token is unknown here" in done.stderr


@pytest.mark.slow
def test_a_killed_link_is_an_error_of_cuda_and_no_hang(here: Here, node: Remote) -> None:
    child = here.ready(*remote(node), sys.executable, PROGRAM, "wait")
    (link,) = (pid for pid in children(child.pid) if exe(pid) == "harp-link")
    os.kill(link, signal.SIGKILL)
    out, err = child.communicate(timeout=60)
    assert int(out) in (46, 999)
    assert "harp-link has ended" in err
