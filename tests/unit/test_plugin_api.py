# SPDX-License-Identifier: Apache-2.0
"""The API server's client against a server that speaks HTTPS and says what it was asked."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import math
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device_plugin.api import Access, ApiServer, pod_of
from device_plugin.identity import Container, Kind, Pod
from harp.errors import ConfigError, DaemonUnreachable

POD: dict[str, Any] = {
    "metadata": {
        "namespace": "ns",
        "name": "a",
        "uid": "u1",
        "annotations": {"harp.dev/memory": "8Gi"},
    },
    "spec": {
        "nodeName": "n1",
        "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "main"}, {"name": "crashes"}, {"name": "new"}],
    },
    "status": {
        "phase": "Running",
        "startTime": "2026-11-26T20:00:00Z",
        "initContainerStatuses": [
            {"name": "init", "state": {"terminated": {"exitCode": 0}}},
            {"name": "side", "state": {"running": {}}},
        ],
        "containerStatuses": [
            {"name": "main", "state": {"running": {}}},
            {"name": "crashes", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ],
    },
}


@dataclass
class Server:
    """What it has, was asked and was told."""

    folder: Path
    port: int = 0
    pods: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    status: int = 0  #: instead of an answer
    hang_s: float = 0  #: before an answer

    @property
    def access(self) -> Access:
        return Access("127.0.0.1", self.port, self.folder / "ca.crt", self.folder / "token")


def certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(built.public_bytes(pem))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key").write_bytes(key.private_bytes(pem, form, plain))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    certificate(tmp_path)
    (tmp_path / "token").write_text("first\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.note()
            time.sleep(found.hang_s)
            pod = found.pods.get(self.path)
            self.say(found.status or (200 if pod else 404), pod or {"kind": "Status"})

        def do_POST(self) -> None:
            self.note()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not found.status:
                found.events.append(body)
            self.say(found.status or 201, body)

        def note(self) -> None:
            found.asked.append((self.command, self.path, self.headers["Authorization"]))

        def say(self, status: int, body: object) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    web.socket = tls.wrap_socket(web.socket, server_side=True)
    found.port = web.server_address[1]
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield found
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture
def api(server: Server) -> Iterator[ApiServer]:
    api = ApiServer(server.access, "n1")
    yield api
    api.close()


def test_a_pod_is_read(server: Server, api: ApiServer) -> None:
    server.pods["/api/v1/namespaces/ns/pods/a"] = POD
    (pod,) = api.named({("ns", "a"), ("ns", "unknown")})
    assert pod.containers == (
        Container("init", Kind.INIT, ended=True),
        Container("side", Kind.SIDECAR, running=True),
        Container("main", running=True),
        Container("crashes"),
        Container("new"),
    )
    assert (pod.namespace, pod.name, pod.uid, pod.node) == ("ns", "a", "u1", "n1")
    assert pod.annotations == {"harp.dev/memory": "8Gi"}
    assert (pod.pending, pod.ended) == (False, False)
    assert pod.started_s == dt.datetime(2026, 11, 26, 20, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("phase", "pending", "ended"),
    [
        (None, True, False),
        ("Pending", True, False),
        ("Succeeded", False, True),
        ("Failed", False, True),
    ],
)
def test_phases(phase: str | None, pending: bool, ended: bool) -> None:
    pod = pod_of({**POD, "status": {"phase": phase} if phase else {}})
    assert (pod.pending, pod.ended) == (pending, ended)
    assert pod.started_s == math.inf
    assert not any(c.running or c.ended for c in pod.containers)


@pytest.mark.parametrize("odd", ["1E", "12345678901234567890123", "x"])
def test_a_pod_that_cannot_be_read_takes_no_other_with_it(
    server: Server, api: ApiServer, odd: str
) -> None:
    asks = {"name": "main", "resources": {"limits": {"harp.dev/gpu-share": odd}}}
    broken = {**POD, "spec": {"nodeName": "n1", "containers": [asks]}}
    path = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&resourceVersion=0"
    server.pods = {
        path: {"items": [broken, {"spec": {}}, None, POD]},
        "/api/v1/namespaces/ns/pods/a": POD,
        "/api/v1/namespaces/ns/pods/b": broken,
    }
    for found in (api.here(), api.named({("ns", "a"), ("ns", "b")})):
        assert pod_of(POD, "harp.dev/gpu-share") in found
        assert len(found) == (2 if odd == "1E" else 1)


def test_the_pods_of_this_node_are_asked_for(server: Server, api: ApiServer) -> None:
    asks = {"limits": {"harp.dev/gpu-share": "30"}, "requests": {"harp.dev/gpu-share": "30"}}
    many = {"name": "many", "resources": {"limits": {"harp.dev/gpu-share": "1k", "cpu": "500m"}}}
    spec = {"nodeName": "n1", "containers": [{"name": "main", "resources": asks}, many]}
    other = {"name": "none", "resources": {}}
    pod = {**POD, "spec": {**spec, "containers": [*spec["containers"], other]}}
    of_node = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1"
    server.pods = {
        f"{of_node}&resourceVersion=0": {"items": [pod, POD]},
        f"{of_node}%2Cstatus.phase%3DPending": {"items": None},
    }
    found, _ = api.here()
    assert [(c.name, c.slots) for c in found.containers] == [
        ("main", 30),
        ("many", 1000),
        ("none", 0),
    ]
    assert api.here(pending=True) == []
    server.status = 403
    with pytest.raises(DaemonUnreachable, match="403") as said:
        api.here()
    assert "list pods" in said.value.hint


def test_advice_does_not_wait_long_for_a_server_that_hangs(server: Server, api: ApiServer) -> None:
    """Kubelet admits no other pod meanwhile."""
    server.hang_s = 3
    server.pods = {"x": {}}
    began = time.monotonic()
    with pytest.raises(DaemonUnreachable):
        api.here(pending=True)
    assert time.monotonic() - began < 2


def test_a_token_that_was_renewed_is_used(server: Server, api: ApiServer) -> None:
    api.named({("ns", "a")})
    (server.folder / "token").write_text("second")
    api.named({("ns", "a")})
    assert [auth for _, _, auth in server.asked] == ["Bearer first", "Bearer second"]


def test_a_refusal_and_a_silence_are_told_apart_from_no_pod(server: Server, api: ApiServer) -> None:
    assert api.named({("ns", "a")}) == []
    server.status = 403
    with pytest.raises(DaemonUnreachable, match="403") as said:
        api.named({("ns", "a")})
    assert "get pods" in said.value.hint
    server.status = 500
    with pytest.raises(DaemonUnreachable, match="500"):
        api.named({("ns", "a")})


def test_a_server_that_is_not_there(server: Server) -> None:
    api = ApiServer(Access("127.0.0.1", 1, *_files(server)), "n1")
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        api.named({("ns", "a")})
    api.close()


def test_another_authoritys_server_is_not_believed(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificate(other)
    api = ApiServer(Access("127.0.0.1", server.port, other / "ca.crt", server.access.token), "n1")
    with pytest.raises(DaemonUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        api.named({("ns", "a")})
    api.close()
    assert server.asked == []


def _files(server: Server) -> tuple[Path, Path]:
    return server.access.authority, server.access.token


def test_an_event_is_said_once_a_pod(server: Server, api: ApiServer) -> None:
    pod = Pod("ns", "a", "u1", "n1", ())
    for uid in ("u1", "u1", "u2"):
        api.tell(Pod("ns", "a", uid, "n1", ()), "HarpAnnotation", "too much")
    api.tell(pod, "HarpAnnotation", "x" * 2000)
    api.close()
    assert [e["involvedObject"]["uid"] for e in server.events] == ["u1", "u2", "u1"]
    first = server.events[0]
    assert (first["reason"], first["message"], first["type"]) == (
        "HarpAnnotation",
        "too much",
        "Warning",
    )
    assert first["source"] == {"component": "harp-device-plugin", "host": "n1"}
    assert first["metadata"]["namespace"] == "ns"
    assert len(server.events[2]["message"]) == 1024
    assert server.asked[0][1] == "/api/v1/namespaces/ns/events"


def test_events_that_are_refused_hold_nobody_up(server: Server, api: ApiServer) -> None:
    server.status = 403
    began = time.monotonic()
    for number in range(1000):
        api.tell(Pod("ns", "a", "u1", "n1", ()), "HarpAnnotation", str(number))
    assert time.monotonic() - began < 20


def test_where_it_is_in_a_pod(tmp_path: Path) -> None:
    assert Access.in_cluster({}) is None
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(ConfigError, match="annotations cannot be read"):
        Access.in_cluster(env, tmp_path)
    for name in ("ca.crt", "token"):
        (tmp_path / name).touch()
    found = Access.in_cluster(env, tmp_path)
    assert found == Access("10.0.0.1", 6443, tmp_path / "ca.crt", tmp_path / "token")
