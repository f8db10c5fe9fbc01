# SPDX-License-Identifier: Apache-2.0
"""The extender's calls, as kube-scheduler and people make them."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from fake_kube import FakeKube

from harp.extender.app import Service


def call(
    port: int, method: str, path: str, body: object = None, tls: ssl.SSLContext | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = (
        http.client.HTTPSConnection("localhost", port, timeout=20, context=tls)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    )
    try:
        raw = body if isinstance(body, str) else json.dumps(body)
        connection.request(method, path, None if body is None else raw)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def get(service: Service, path: str) -> tuple[int, str]:
    return call(service.server.port, "GET", path)[:2]


def post(service: Service, path: str, body: object) -> Any:
    status, text, _ = call(service.server.port, "POST", path, body)
    assert status == 200, text
    return json.loads(text)


def bind(service: Service, body: dict[str, Any], on: str) -> str:
    meta = body["metadata"]
    asked = {"PodName": meta["name"], "PodNamespace": "ns", "PodUID": meta["uid"], "Node": on}
    return str(post(service, "/bind", asked)["Error"])


def bound(kube: FakeKube) -> dict[str, tuple[str, str]]:
    return {
        one["metadata"]["name"]: (
            one["spec"]["nodeName"],
            one["metadata"]["annotations"].get("harp.dev/gpu", ""),
        )
        for one in kube.pods()
        if one["spec"].get("nodeName")
    }
