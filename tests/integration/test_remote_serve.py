# SPDX-License-Identifier: Apache-2.0
"""`harp remote serve` as its clients and its own users see it: real harpd, software GPU, processes.

One node serves most of these tests; what kills or drains one has a node of its own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from link_session import alive
from machine import wait_for
from serve_world import MIB, Client, Remote, below, exe, serving

from harp.api.status import from_rpc
from harp.api.v1 import remote_pb2 as pb
from harp.errors import HarpError, NodeDraining, QuotaExceeded, UnknownLease
from harp.remote import authority
from harp.remote.certificate import Kind
from harp.remote.trust import explain

#: what has 3 s to happen; a loaded machine gets ten times as long
BACK_S = 30.0
SECRET = "of-nobody-elsewhere"


@pytest.fixture(scope="module")
def shared(native_dir: Path) -> Iterator[Remote]:
    with serving(native_dir, HARP_TEST_SECRET=SECRET) as found:
        yield found


@pytest.fixture
def node(shared: Remote) -> Iterator[Remote]:
    """The shared one, without anybody before and after."""
    assert shared.leases() == []
    yield shared
    for client in shared.clients:
        client.close()
    shared.clients.clear()
    with grpc.insecure_channel(shared.endpoint) as channel:
        last = Client(shared, channel, {})
        for lease in shared.leases():
            last.stub.Release(pb.ReleaseRequest(lease_id=lease["lease"]), timeout=30)
    assert shared.workers() == []


def refused(client: Client, **lease: object) -> HarpError:
    with pytest.raises(grpc.RpcError) as error:
        client.lease(**lease)
    return from_rpc(error.value)


def test_a_program_computes_elsewhere_as_a_tenant_here(node: Remote) -> None:
    client = node.client()
    lease = client.lease(name="train", mem_limit_bytes=256 * MIB, share_ppm=300_000)
    assert json.loads(client.run(lease, "remote_program.py", "add", "1000"))["right"]
    name = f"remote-train-{lease.lease_id[:8]}"
    found = node.at.ps(name)
    assert found
    assert (found["mem_limit_bytes"], found["share_ratio"]) == (256 * MIB, 0.3)
    # Its program has ended: so has the session, and nobody had to say so.
    wait_for(lambda: not node.leases()[0]["sessions"], "the session's end")
    holder = client.holder(lease, 100)
    (shown,) = node.leases()
    assert (shown["tenant"], shown["owner"]) == (name, "(loopback)")
    (session,) = shown["sessions"]
    assert session["program"] == "job.py"
    assert 100 * MIB <= session["held_bytes"] <= 256 * MIB
    said = node.at.harp("remote", "sessions", "--insecure", "--node", node.endpoint).stdout
    assert all(word in said for word in (name, "256MiB", "30%", "job.py"))
    done = client.release(lease)
    assert (done.sessions, done.freed_bytes) == (1, session["held_bytes"])
    assert node.at.ps(name) is None
    assert node.workers() == []
    holder.kill()


@pytest.mark.slow
def test_the_limit_is_the_programs(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=256 * MIB)
    assert client.run(lease, "gpu_program.py", "300") == "cuMemAlloc 2\n"
    client.holder(lease, 200)
    assert client.run(lease, "gpu_program.py", "100") == "cuMemAlloc 2\n"  # one limit for both


@pytest.mark.slow
def test_here_and_elsewhere_share_one_ledger(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=512 * MIB, share_ppm=700_000)
    for options in (("--mem", "600MiB"), ("--share", "40%")):
        here = node.at.harp("run", *options, "--", "true")
        assert here.returncode == 125
        assert "left" in here.stderr
    client.release(lease)
    local = node.at.tenant("--mem", "600MiB", "--share", "60%", "--name", "local")
    wait_for(lambda: node.at.ps("local"), "a local tenant")
    error = refused(client, mem_limit_bytes=512 * MIB)
    assert isinstance(error, QuotaExceeded)
    assert "512MiB of memory asked on GPU 0" in error.message
    assert isinstance(refused(client, share_ppm=500_000), QuotaExceeded)
    watch = client.stub.Watch(pb.WatchRequest(), timeout=30)
    wait_for(lambda: next(watch).nodes[0].devices[0].free_ppm == 400_000, "what is left")
    watch.cancel()
    local.kill()
    local.wait()


@pytest.mark.slow
def test_who_does_not_renew_has_nothing_in_three_seconds(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=512 * MIB, ttl_s=3)
    with client.renewing(lease):
        holder = client.holder(lease, 300)
        (worker,) = node.workers()
        time.sleep(4)  # longer than the lease would have lasted
        assert alive(worker)
    ended = time.monotonic()
    wait_for(lambda: not node.leases(), "the lease's end", 3 + BACK_S)
    with pytest.raises(grpc.RpcError) as error:
        client.stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=30)
    assert isinstance(from_rpc(error.value), UnknownLease)
    wait_for(lambda: not alive(worker), "the worker's end", BACK_S)
    wait_for(lambda: node.at.json("devices")["devices"][0]["leased_bytes"] == 0, "memory", BACK_S)
    wait_for(lambda: node.at.json("ps")["tenants"] == [], "the tenant's end", BACK_S)
    assert time.monotonic() - ended < 3 + BACK_S
    holder.kill()


@pytest.mark.slow
def test_a_clients_death_gives_its_memory_back_and_keeps_its_lease(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=512 * MIB)
    near = client.near(client.attach(lease))
    program = client.start_at(near.path, "gpu_program.py", "300")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    (worker,) = node.workers()
    os.kill(near.session(), signal.SIGKILL)
    wait_for(lambda: not alive(worker), "the worker's end", BACK_S)
    wait_for(lambda: node.at.json("devices")["devices"][0]["leased_bytes"] == 0, "memory", BACK_S)
    wait_for(lambda: node.leases()[0]["sessions"] == [], "the session's end", BACK_S)
    client.holder(lease, 300)


@pytest.mark.slow
def test_a_worker_knows_nothing_of_whom_serves(node: Remote) -> None:
    client = node.client()
    client.holder(client.lease(mem_limit_bytes=256 * MIB), 10)
    (worker,) = node.workers()
    environ = Path(f"/proc/{worker}/environ").read_text()
    names = {word.partition("=")[0] for word in environ.split("\0") if word}
    assert {"HARP_GRANT", "HARP_CUDA_REAL", "HARP_SOFT_DIR"} <= names
    assert SECRET not in environ
    assert not [n for n in names if n.startswith(("GRPC_", "PYTHON", "XDG_RUNTIME", "LD_PRELOAD"))]
    sessions = list((node.at.base / "user/harp/remote").glob("serve-*/certificate/*"))
    assert [oct(path.stat().st_mode & 0o777) for path in sessions] == ["0o600"]


@pytest.mark.slow
def test_the_data_sides_death_ends_sessions_and_not_the_service(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=512 * MIB)
    client.holder(lease, 300)
    (worker,) = node.workers()
    (far,) = [p for p in below(node.process.pid) if exe(p) == "harp-link" and worker in below(p)
              and len(below(p)) == 2]  # fmt: skip
    os.kill(far, signal.SIGKILL)
    wait_for(lambda: not alive(worker), "the worker's end", BACK_S)
    wait_for(lambda: node.leases()[0]["sessions"] == [], "the session's end", BACK_S)
    wait_for(lambda: node.events("data_side_started"), "another one", BACK_S)
    assert node.events("data_side_died")[-1]["sessions"] == 1
    client.holder(lease, 300)


@pytest.mark.slow
def test_harpd_may_be_restarted(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=256 * MIB)
    client.holder(lease, 100)
    node.at.harp("daemon", "--stop")
    (shown,) = client.stub.Leases(pb.LeasesRequest(), timeout=30).leases
    assert len(shown.sessions) == 1
    error = refused(client, mem_limit_bytes=64 * MIB)
    assert "no harpd" in error.message or "did not answer" in error.message
    wait_for(lambda: node.events("harpd_lost"), "harpd's end", BACK_S)  # it looks now and then
    node.at.start_harpd()
    wait_for(lambda: node.events("harpd_found"), "harpd", BACK_S)
    assert [len(x["sessions"]) for x in node.leases()] == [1]
    other = client.lease(mem_limit_bytes=64 * MIB)
    assert len(node.at.json("ps")["tenants"]) == 2
    client.release(lease)
    client.release(other)
    assert node.at.json("ps")["tenants"] == []


@pytest.mark.slow
def test_a_port_is_one_services(node: Remote) -> None:
    """Two on one would each have some of the clients; and a second one is no harm elsewhere."""
    client = node.client()
    client.lease(mem_limit_bytes=64 * MIB)
    second = node.at.harp("remote", "serve", "--insecure", "--listen", node.endpoint)
    assert second.returncode == 1
    assert f"cannot listen at {node.endpoint}" in second.stderr
    beside = Remote(node.at, "--insecure", "--listen", "127.0.0.1:0")
    other = beside.client()
    holder = other.holder(other.lease(mem_limit_bytes=256 * MIB), 100)
    assert len(node.at.json("ps")["tenants"]) == 2
    assert [len(lease["sessions"]) for lease in node.leases()] == [0]
    holder.kill()
    beside.stop()
    assert len(node.at.json("ps")["tenants"]) == 1


@pytest.mark.slow
def test_a_killed_service_leaves_no_worker_and_no_tenant(native_dir: Path) -> None:
    with serving(native_dir) as node:
        client = node.client()
        client.holder(client.lease(mem_limit_bytes=256 * MIB), 100)
        client.holder(client.lease(mem_limit_bytes=256 * MIB), 100)
        mine = below(node.process.pid)
        assert len([p for p in mine if exe(p) == "harp-worker"]) == 2
        left = {p for p in mine if exe(p) in ("harp-link", "harp-worker")}
        assert len(left) == 5
        os.kill(node.process.pid, signal.SIGKILL)
        node.process.wait()
        wait_for(lambda: not any(map(alive, left)), "the ends of all", BACK_S)
        wait_for(lambda: node.at.json("ps")["tenants"] == [], "the tenants' ends", BACK_S)
        assert node.at.json("devices")["devices"][0]["leased_bytes"] == 0
        # The next one sweeps what is left of it.
        again = Remote(node.at, "--insecure", "--listen", "127.0.0.1:0")
        assert len(list((node.at.base / "user/harp/remote").iterdir())) == 1
        again.stop()


@pytest.mark.slow
def test_a_drained_node_takes_nobody_and_ends_by_the_deadline(native_dir: Path) -> None:
    with serving(native_dir, HARP_SOFT_DEVICES="tiny,tiny") as node:
        client = node.client()
        lease = client.lease(gpu="1,0", mem_limit_bytes=256 * MIB)
        client.holder(lease, 100, gpus=2)  # and one lease is on two devices
        (tenant,) = node.at.json("ps")["tenants"]
        assert len(tenant["device_uuids"]) == 2
        assert tenant["device_uuids"] == [d.uuid for d in lease.devices]
        told = node.at.json("remote", "drain", node.endpoint, "--insecure", "--deadline", "2")
        assert (told["state"], told["leases"], told["sessions"]) == ("draining", 1, 1)
        assert isinstance(refused(client), NodeDraining)
        wait_for(lambda: node.at.json("ps")["tenants"] == [], "the end of all", 2 + BACK_S)
        assert node.workers() == []
        told = node.at.json("remote", "drain", node.endpoint, "--insecure", "--stop")
        assert told["state"] == "ready"
        client.lease()


@pytest.mark.slow
def test_only_the_pools_own_clients_come(native_dir: Path, tmp_path: Path) -> None:
    pool, other = tmp_path / "pool", tmp_path / "other"
    with serving_pool(native_dir, pool) as node:
        ann = pool / "client-ann"
        client = node.client(_channel(node.endpoint, ann), **_near(ann))
        lease = client.lease(mem_limit_bytes=256 * MIB)
        assert json.loads(client.run(lease, "remote_program.py", "add", "1000"))["right"]
        asked = ("remote", "sessions", "--node", node.endpoint, "--dir")
        (shown,) = node.at.json(*asked, str(ann))["leases"]
        assert shown["owner"] == "ann"
        assert node.at.json(*asked, str(pool / "client-bob"))["leases"] == []
        assert len(node.at.json(*asked, str(pool / "client-root"))["leases"]) == 1
        said = node.at.harp("remote", "drain", node.endpoint, "--dir", str(ann)).stderr
        assert "ann is no administrator of this node" in said
        node.at.json("remote", "init", "--dir", str(other), "--client", "ann")
        said = node.at.harp(*asked, str(other / "client-ann")).stderr
        assert "its certificate is of another authority than yours" in said
        with pytest.raises(grpc.RpcError) as error:
            node.client(_channel(node.endpoint, other / "client-ann", ca=ann)).lease()
        assert "takes certificates of its own pool only" in explain(error.value, node.endpoint).hint
        # Calls, too, come with a certificate of the pool or not at all.
        bare = node.client(_channel(node.endpoint, ann), ca=str(ann / "ca.crt"))
        assert bare.run(lease, "remote_program.py", "add", "10") == "cuInit 100\n"
        by_token(node, lease, ann)


def by_token(node: Remote, lease: pb.LeaseReply, ann: Path) -> None:
    """A job that was given a lease's token, and has no certificate."""
    trust = grpc.ssl_channel_credentials((ann / "ca.crt").read_bytes())
    channel = grpc.secure_channel(node.told["token_endpoint"], trust)
    job = node.client(channel, ca=str(ann / "ca.crt"))
    bearer = (("authorization", f"Bearer {lease.token}"),)
    session = job.attach(lease, metadata=bearer)
    assert session.endpoint == node.told["token_data_endpoint"]
    program = job.start_at(job.near(session).path, "remote_program.py", "add", "1000")
    assert json.loads(program.communicate(timeout=120)[0])["right"]


def serving_pool(native_dir: Path, pool: Path) -> contextlib.AbstractContextManager[Remote]:
    """A node with certificates, for clients ann, bob and root; root administers it."""
    now = dt.datetime.now(dt.UTC)
    authority.init(pool, now)
    hosts = ["localhost", "127.0.0.1"]
    authority.issue(pool, Kind.NODE, "n1", hosts=hosts, now=now, days=30)
    for name in ("ann", "bob", "root"):
        authority.issue(pool, Kind.CLIENT, name, hosts=[], now=now, days=30)
    options = ("--dir", str(pool / "node-n1"), "--listen", "127.0.0.1:0", "--admin", "root")
    return serving(native_dir, *options, "--token-listen", "127.0.0.1:0")


def _channel(endpoint: str, folder: Path, ca: Path | None = None) -> grpc.Channel:
    pem = [(folder / name).read_bytes() for name in ("tls.key", "tls.crt")]
    trust = ((ca or folder) / "ca.crt").read_bytes()
    return grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(trust, *pem))


def _near(folder: Path) -> dict[str, str]:
    files = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    return {name: str(folder / file) for name, file in files.items()}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="leases have users of their own where root serves")
def test_nodes_that_know_nothing_of_each_other_end_only_their_own(native_dir: Path) -> None:
    """Of tests that run beside each other, each with locks of its own, on the uids of one host."""
    with serving(native_dir) as one, serving(native_dir) as other:
        mine, theirs = one.client(), other.client()
        lease, short = mine.lease(mem_limit_bytes=256 * MIB), theirs.lease()  # neither runs yet
        program = mine.holder(lease, 64)
        theirs.release(short)
        assert one.uids is not None
        assert [uid_of(pid) in one.uids.range for pid in one.workers()].count(True) >= 1
        program.communicate(timeout=60)
        assert program.returncode == 0, one.log.read_text()


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid
