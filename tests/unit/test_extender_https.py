# SPDX-License-Identifier: Apache-2.0
"""The extender by HTTPS: who may call, and certificates that are renewed while it runs."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from extender_calls import call
from fake_kube import FakeKube, node, pod, served
from test_kube_client import kubeconfig, wait_for

from harp.extender.app import Options, Service
from harp.extender.server import Tls
from harp.kube.access import find
from harp.kube.client import ApiServer


def _certificates(folder: Path) -> Tls:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *key, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    by_ca = ["-CA", "ca.crt", "-CAkey", "ca.key"]
    for name in ("tls", "client"):
        more = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
        openssl(
            "req", "-x509", *key, *by_ca, *more, "-keyout", f"{name}.key", "-out", f"{name}.crt"
        )
    return Tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def _known(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    return context


@pytest.fixture
def kube() -> FakeKube:
    kube = FakeKube()
    kube.put(node("n1"))
    return kube


@pytest.fixture
def service(kube: FakeKube, tmp_path: Path) -> Iterator[Service]:
    with served(kube) as url:
        access = find(kubeconfig(tmp_path / "config", url, {}), {})
        tls = _certificates(tmp_path)
        options = Options(bind=("127.0.0.1", 0), me="me", namespace="ns", tls=tls)
        service = Service(ApiServer(access), options)
        service.start()
        yield service
        service.stop()


def test_known_callers_and_no_others(kube: FakeKube, service: Service, tmp_path: Path) -> None:
    stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with pytest.raises((OSError, http.client.HTTPException)):
        call(service.server.port, "GET", "/healthz", tls=stranger)
    known = _known(tmp_path)
    # one who says nothing holds up nobody
    silent = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=20)
    silent.connect()
    assert call(service.server.port, "GET", "/healthz", tls=known)[0] == 200
    silent.close()
    # one whose binding waits has not hung up
    wait_for(service.leads)
    kube.kubelet = False
    with ThreadPoolExecutor(2) as pool:
        for name in "ab":
            kube.put(pod(name, 60))
            asked = {"PodName": name, "PodNamespace": "ns", "PodUID": "", "Node": "n1"}
            answer = pool.submit(call, service.server.port, "POST", "/bind", asked, known)
            if name == "a":
                assert json.loads(answer.result(20)[1]) == {"Error": ""}
        wait_for(lambda: bool(service.lock._waiters))  # type: ignore[attr-defined]
        time.sleep(1.2)  # it is looked twice
        kube.begin(pod("a", 60))
        assert json.loads(answer.result(20)[1]) == {"Error": ""}


def test_certificates_are_renewed_without_a_restart(service: Service, tmp_path: Path) -> None:
    """Once it served those of its start until they had expired, and pods with shares waited."""
    old = _known(tmp_path)
    assert call(service.server.port, "GET", "/healthz", tls=old)[0] == 200
    half = (tmp_path / "tls.crt").read_text()[:100]
    (tmp_path / "tls.crt").write_text(half)  # what cannot be used is not taken
    assert call(service.server.port, "GET", "/healthz", tls=old)[0] == 200
    _certificates(tmp_path)  # of another authority, too
    new = _known(tmp_path)
    assert call(service.server.port, "GET", "/healthz", tls=new)[0] == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        call(service.server.port, "GET", "/healthz", tls=old)
