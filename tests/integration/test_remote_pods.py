# SPDX-License-Identifier: Apache-2.0
"""Pods whose GPU is elsewhere, from kubelet's first word to the pool's: TLS, leases, containers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import wait_for
from remote_pod_world import Elsewhere, PodNode, elsewhere, pod_node

from device_plugin.fake_kubelet import AdmissionError

PROGRAM = "remote_program.py"
HOLDS = "gpu_program.py"
#: a plugin that begins looks at what there is at once
SWEEP_S = 2.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root: mount namespaces")


@pytest.fixture
def pool(native_dir: Path) -> Iterator[Elsewhere]:
    with elsewhere(native_dir) as made:
        yield made


@pytest.fixture
def node(native_dir: Path, pool: Elsewhere) -> Iterator[PodNode]:
    with pod_node(native_dir, pool) as made:
        yield made


def test_a_pod_on_a_node_without_a_gpu_has_its_part_of_one_elsewhere(
    node: PodNode, pool: Elsewhere
) -> None:
    node.start_plugin()
    node.admit("train", 25, {"harp.dev/remote": "required", "harp.dev/class": "latency"})
    child = node.begin("train", PROGRAM, "add", "1000", uid=4242)
    out, err = child.communicate(timeout=60)
    assert json.loads(out)["right"] is True, err
    (lease,) = pool.leases()
    found = pool.at.ps(lease["tenant"])
    assert found is not None
    assert lease["tenant"].startswith("remote-")
    assert found["share_ratio"] == 0.25
    (gpu,) = pool.at.json("devices")["devices"]
    # A context is part of the share; memory is leased in pieces of 2 MiB.
    whole = gpu["memory_bytes"] // 4 - gpu["context_bytes"]
    assert found["mem_limit_bytes"] == whole // (2 << 20) * (2 << 20)
    limit_mib = found["mem_limit_bytes"] >> 20
    over = node.begin("train", HOLDS, str(limit_mib + 2))  # it starts again
    assert over.communicate(timeout=60)[0].strip() == "cuMemAlloc 2"
    fits = node.begin("train", HOLDS, str(limit_mib // 2))
    assert fits.stdout is not None
    assert fits.stdout.readline().strip() == "ready"
    given = node.kubelet.begin("ns", "train", "main")
    for env in ({}, {"HARP_REMOTE": "/tmp/x", "HARP_GRANT": "/tmp/y"}):
        child = node.enter(given, PROGRAM, "add", "10", env=env)
        out, err = child.communicate(timeout=60)
        assert json.loads(out)["right"] is True, (env, err)
    assert pool.leases()[0]["lease"] == lease["lease"]  # one lease through all of it
    assert node.api.events == []


@pytest.mark.slow
def test_a_lease_ends_with_its_container_and_not_before(
    node: PodNode, pool: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_plugin.book.GONE_S", 0.2)
    node.start_plugin(sweep_s=0.1)
    for name in ("a", "b"):
        node.admit(name, 30)
        child = node.begin(name, HOLDS, "8")
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    assert len(pool.leases()) == 2
    # Nobody knows the pod any more, while a process of it is still there.
    node.kubelet.remove("ns", "a")
    node.api.pods = [pod for pod in node.api.pods if pod.name != "a"]
    wait_for(lambda: not node.kubelet.devices.held.get(("ns", "a")), "kubelet has forgotten it")
    assert node.plugin is not None
    node.plugin.starts.sweep()
    assert len(pool.leases()) == 2, "a process of it has a session"
    first, second = node.containers
    first.kill()
    wait_for(lambda: len(pool.leases()) == 1, "its lease is given back")
    assert second.poll() is None
    wait_for(lambda: len(list(node.settings.grants.iterdir())) == 1, "its box is gone")
    assert len(node.links()) == 1
    node.admit("c", 70)
    assert json.loads(node.begin("c", PROGRAM, "add", "10").communicate(timeout=60)[0])["right"]


@pytest.mark.slow
def test_the_plugin_may_die_at_any_moment_and_no_call_fails(node: PodNode, pool: Elsewhere) -> None:
    node.start_program()
    node.admit("a", 50)
    child = node.begin("a", PROGRAM, "busy")
    (lease,) = pool.leases()
    for _ in range(3):
        node.kill_program()
        time.sleep(0.5)
        node.start_program()
    wait_for(lambda: len(node.kubelet.devices.free()) == node.settings.slots - 50, "its slots")
    time.sleep(SWEEP_S)  # it looks at what there is, and finds all of it in order
    assert child.poll() is None, child.communicate()
    assert [one["lease"] for one in pool.leases()] == [lease["lease"]]
    again = node.begin("a", PROGRAM, "add", "10")  # kubelet starts the container again
    assert json.loads(again.communicate(timeout=60)[0])["right"]
    assert [one["lease"] for one in pool.leases()] == [lease["lease"]]


@pytest.mark.slow
def test_a_keeper_that_dies_takes_its_leases_along_and_the_next_one_takes_others(
    node: PodNode, pool: Elsewhere
) -> None:
    plugin = node.start_plugin()
    node.admit("a", 50)
    given = node.kubelet.begin("ns", "a", "main")
    running = node.enter(given, PROGRAM, "wait")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    box = next(node.settings.grants.iterdir())
    inode = box.stat().st_ino
    (before,) = pool.leases()
    node.stop_keeper(signal.SIGKILL)
    assert int(running.stdout.readline()) not in (0, 1), "its program is told by CUDA"
    with pytest.raises(AdmissionError, match="harp remote keep does not answer"):
        node.kubelet.begin("ns", "a", "main")
    node.start_keeper()
    plugin.starts.sweep()  # without a start: it has a lease again where its container looks
    assert box.stat().st_ino == inode
    child = node.enter(given, PROGRAM, "add", "10")
    assert json.loads(child.communicate(timeout=60)[0])["right"]
    wait_for(lambda: len(pool.leases()) == 1, "the one that was lost has run out")
    assert pool.leases()[0]["lease"] != before["lease"]
    (link,) = node.links()
    os.kill(link, signal.SIGKILL)
    wait_for(lambda: node.held() == (), "the keeper has seen it")
    plugin.starts.sweep()
    child = node.enter(given, PROGRAM, "add", "10")
    assert json.loads(child.communicate(timeout=60)[0])["right"]


@pytest.mark.slow
def test_a_pool_that_was_restarted_serves_the_same_container_again(
    node: PodNode, pool: Elsewhere
) -> None:
    plugin = node.start_plugin()
    node.admit("a", 50)
    child = node.begin("a", PROGRAM, "again")

    def add() -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    assert add() == "True"
    pool.stop()
    wait_for(lambda: not node.held()[0].node, "the keeper has lost the lease")
    plugin.starts.sweep()
    assert [e[:2] for e in node.api.events] == [("a", "HarpRemote")]
    assert "container main has no GPU now" in node.api.events[0][2]
    plugin.starts.sweep()
    assert len(node.api.events) == 1, "said once"
    pool.start()
    wait_for(lambda: node.held()[0].node, "the keeper has found it again", 60)
    assert add() == "True"
    assert len(pool.leases()) == 1


@pytest.mark.slow
def test_what_cannot_be_is_said_with_its_remedy(node: PodNode, pool: Elsewhere) -> None:
    node.start_plugin()

    def refused(name: str) -> str:
        with pytest.raises(AdmissionError) as error:
            node.kubelet.begin("ns", name, "main")
        return str(error.value)

    with pytest.raises(AdmissionError, match="more than one GPU, and a remote share is of one"):
        node.admit("large", 200)
    node.admit("perhaps", 25, {"harp.dev/remote": "preferred"})
    assert '"preferred" is not in this version' in refused("perhaps")
    node.admit("typo", 25, {"harp.dev/remote": "require"})
    assert "did you mean 'required'?" in refused("typo")
    node.admit("first", 60)
    node.kubelet.begin("ns", "first", "main")
    node.admit("second", 60)
    assert "no node can take the lease" in refused("second")
    node.kubelet.remove("ns", "second")
    assert len(pool.leases()) == 1
    assert len(node.links()) == 1, "of those that were refused nothing is left"
    node.stop_keeper()
    node.start_keeper()
    pool.stop()
    node.admit("third", 10)
    assert "nobody listens there" in refused("third")
    told = {(name, reason) for name, reason, _ in node.api.events}
    assert told == {(name, "HarpRemote") for name in ("perhaps", "typo", "second", "third")}
    pool.start()
    assert json.loads(node.begin("third", PROGRAM, "add", "10").communicate(timeout=60)[0])["right"]


@pytest.mark.slow
def test_certificates_of_another_pool_are_refused_by_name(node: PodNode, pool: Elsewhere) -> None:
    node.start_plugin()
    pool.another_authority()
    node.admit("a", 10)
    with pytest.raises(AdmissionError, match="of another authority than yours"):
        node.kubelet.begin("ns", "a", "main")


@pytest.mark.slow
def test_a_certificate_that_is_renewed_in_its_place_is_taken(
    native_dir: Path, pool: Elsewhere
) -> None:
    """By the keeper, and by the harp-link of a container that runs on."""
    whole, good_s = pool.client, 25.0
    pool.client = pool.short_client(good_s)
    over_s = time.monotonic() + good_s
    with pod_node(native_dir, pool) as node:
        node.start_plugin()
        node.admit("a", 10)
        given = node.kubelet.begin("ns", "a", "main")
        (link,) = node.links()
        child = node.enter(given, PROGRAM, "wait")
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        pool.renew(pool.client, whole)
        node.admit("b", 10)  # at a start, and each 30 s, it is looked at
        node.kubelet.begin("ns", "b", "main")
        time.sleep(max(0.0, over_s - time.monotonic()) + 1)
        out, err = node.enter(given, PROGRAM, "add", "10").communicate(timeout=60)
        assert "right" in out, err + node.keeper_log.read_text()
        assert link in node.links(), "the same process, at the same socket"
        assert child.poll() is None
        node.admit("c", 10)
        node.kubelet.begin("ns", "c", "main")


@pytest.mark.slow
def test_a_pool_that_was_made_anew_serves_who_has_its_new_certificate(
    node: PodNode, pool: Elsewhere
) -> None:
    """A start in the first seconds, when the keeper has not heard yet that its lease is lost."""
    node.start_plugin()
    node.admit("a", 10)
    node.kubelet.begin("ns", "a", "main")
    pool.another_authority()
    pool.renew(pool.client, pool.at.base / "other" / "client-kubernetes")
    out, err = node.begin("a", PROGRAM, "add", "10").communicate(timeout=60)
    assert "right" in out, err + node.keeper_log.read_text()
    assert len(node.links()) == 1


@pytest.mark.slow
def test_a_lease_that_no_plugin_knows_is_given_back(
    node: PodNode, pool: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin died between the lease and its own word of it, and the pod has gone since."""
    plugin = node.start_plugin()
    node.admit("a", 20)
    node.admit("b", 20)
    for name in ("a", "b"):
        node.kubelet.begin("ns", name, "main")
    node.stop_plugin()
    node.settings.checkpoint.unlink()
    plugin = node.start_plugin()
    node.kubelet.remove("ns", "a")
    plugin.orphans.sweep()
    assert len(pool.leases()) == 2, "kubelet may be slow to list a container that starts"
    monkeypatch.setattr("device_plugin.book.GONE_S", 0)
    plugin.orphans.sweep()
    assert len(pool.leases()) == 1, "the other one's container is listed"
    assert len(list(node.settings.grants.iterdir())) == 1


@pytest.mark.slow
def test_nodes_of_one_service_have_one_certificate_and_addresses_of_their_own(
    native_dir: Path,
) -> None:
    """As pods of a DaemonSet behind a Service that has no address of its own."""
    with (
        elsewhere(native_dir, service="harp-pool.harp-system.svc") as pool,
        pod_node(native_dir, pool) as node,
    ):
        node.start_plugin()
        node.admit("a", 10)
        out, err = node.begin("a", PROGRAM, "add", "10").communicate(timeout=60)
        assert "right" in out, err + node.keeper_log.read_text()
        (held,) = node.held()
        assert (held.node, held.endpoint) == ("gpu-1", pool.endpoint)


def test_the_plugin_tells_of_itself(node: PodNode) -> None:
    """As the one beside GPUs: kubelet's probe and Prometheus ask it."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    node.start_program("--metrics", str(port))

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            return str(answer.read().decode())

    assert page("healthz") == "ok\n"
    node.admit("train", 25)
    resource = 'resource="harp.dev/remote-gpu-share"'
    registered = f"harp_plugin_registered{{{resource}}} 1.0\n"
    wait_for(lambda: registered in page("metrics"), "it is registered")
    told = page("metrics")
    assert f"harp_plugin_grants{{{resource}}} 0.0\n" in told
    (slots,) = [line for line in told.splitlines() if line.startswith("harp_plugin_slots{")]
    assert 'pod="train"' in slots
    assert slots.endswith(" 25.0")
    node.begin("train", HOLDS, "8")
    assert f"harp_plugin_grants{{{resource}}} 1.0\n" in page("metrics")


def test_a_plugin_whose_sweep_has_ended_says_that_it_is_ill(
    node: PodNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = node.start_plugin()
    healthz = plugin.routes()["/healthz"]
    assert asyncio.run(healthz("")).status == 200
    monkeypatch.setattr(plugin, "_threads", [*plugin._threads, threading.Thread(name="sweep")])
    ill = asyncio.run(healthz(""))
    assert (ill.status, ill.body) == (503, b"ended: sweep; see the plugin's log\n")
    monkeypatch.undo()
