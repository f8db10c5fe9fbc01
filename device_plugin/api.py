# SPDX-License-Identifier: Apache-2.0
"""The API server, as far as the plugin needs it: pods of this node, and events about them.

Kubelet says who has which slots, so when a container starts its pod alone is asked for. The list of
this node's pods is asked for at an interval (edited annotations), and that of those that have not
begun when kubelet wants advice. The service account's token is read at every call, for it is
renewed.
"""

from __future__ import annotations

import http.client
import json
import math
import queue
import re
import ssl
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog

from device_plugin.annotations import parse_quantity
from device_plugin.estimates import REASON as ESTIMATE
from device_plugin.identity import Container, Kind, Pod
from harp.errors import ConfigError, DaemonUnreachable, HarpError

__all__ = ["Access", "ApiServer", "pod_of"]

_log = structlog.get_logger(__name__)
_TIMEOUT_S = 2.0
#: kubelet admits no other pod while it waits for our advice
_ADVICE_S = 0.5
#: events that wait to be sent; more are dropped, for a pod that crashes in a loop says nothing new
_EVENTS_MAX = 256
#: a pod's message is said once
_SAID_MAX = 4096
#: reasons of events that nobody need see to
_NORMAL = (ESTIMATE,)
#: a CronJob's Job is named after it and the minute it was due
_SCHEDULED = re.compile(r"(.+)-[0-9]{8,}")
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is, and who we are to it."""

    host: str
    port: int
    authority: Path  #: certificates that sign its own
    token: Path

    @classmethod
    def in_cluster(cls, env: Mapping[str, str], account: Path = _ACCOUNT) -> Access | None:
        """As every pod is told; None: this is no pod.

        Raises:
            ConfigError: a pod without a service account's token.
        """
        if not env.get("KUBERNETES_SERVICE_HOST"):
            return None
        access = cls(
            env["KUBERNETES_SERVICE_HOST"],
            int(env.get("KUBERNETES_SERVICE_PORT") or 443),
            account / "ca.crt",
            account / "token",
        )
        for path in (access.authority, access.token):
            if not path.is_file():
                raise ConfigError(
                    f"{path} is not there, so pods' annotations cannot be read",
                    "let the plugin's pod have its service account's token",
                )
        return access


class ApiServer:
    """Pods and events by HTTPS. Safe to use from several threads.

    Args:
        access: where.
        node: this node's name, the source of our events.
        resource: what containers ask for.
    """

    def __init__(self, access: Access, node: str, resource: str = "harp.dev/gpu-share") -> None:
        self._access = access
        self._node = node
        self._resource = resource
        self._tls = ssl.create_default_context(cafile=str(access.authority))
        self._events: queue.Queue[tuple[Pod, str, str] | None] = queue.Queue(_EVENTS_MAX)
        #: guards _said
        self._lock = threading.Lock()
        #: what was said, oldest first: (pod's UID, reason, message)
        self._said: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._teller = threading.Thread(target=self._tell_all, name="events", daemon=True)
        self._teller.start()

    def close(self) -> None:
        """Say what is left to say, and end."""
        self._events.put(None)
        self._teller.join(_TIMEOUT_S * 2)

    def named(self, keys: Collection[tuple[str, str]]) -> Sequence[Pod]:
        """Those of these pods that it knows.

        Raises:
            DaemonUnreachable: it does not answer, or does not let us ask.
        """
        found = []
        for namespace, name in sorted(keys):
            path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(name)}"
            status, body = self._ask("GET", path)
            if status == http.client.NOT_FOUND:
                continue
            if status != http.client.OK:
                raise DaemonUnreachable(
                    f"the API server answers {status} to GET {path}",
                    "let the plugin's service account get pods",
                )
            found.append(body)
        return self._read(found)

    def here(self, *, pending: bool = False) -> Sequence[Pod]:
        """All pods of this node; or those that have not begun, asked with little patience.

        Raises:
            DaemonUnreachable: it does not answer, or does not let us ask.
        """
        selector = f"spec.nodeName={self._node}" + (",status.phase=Pending" if pending else "")
        # What the API server has at hand is new enough for edits; a pod that was bound just now is
        # asked for as it is.
        path = f"/api/v1/pods?fieldSelector={quote(selector)}" + (
            "" if pending else "&resourceVersion=0"
        )
        status, body = self._ask("GET", path, timeout_s=_ADVICE_S if pending else _TIMEOUT_S)
        if status != http.client.OK:
            raise DaemonUnreachable(
                f"the API server answers {status} to GET {path}",
                "let the plugin's service account list pods",
            )
        return self._read(body.get("items") or ())

    def _read(self, bodies: Sequence[Any]) -> list[Pod]:
        """Pods as they are written; one that cannot be read takes no other with it."""
        found = []
        for body in bodies:
            try:
                found.append(pod_of(body, self._resource))
            except (HarpError, AttributeError, KeyError, TypeError, ValueError) as error:
                name = body.get("metadata", {}).get("name") if isinstance(body, dict) else None
                _log.warning("pod_not_read", pod=name, reason=f"{type(error).__name__}: {error}")
        return found

    def tell(self, pod: Pod, reason: str, message: str) -> None:
        """One event, soon; the same thing of the same pod once."""
        key = (pod.uid, reason, message)
        with self._lock:
            if key in self._said:
                return
            self._said[key] = None
            if len(self._said) > _SAID_MAX:
                self._said.popitem(last=False)
        _log.warning("pod_event", pod=f"{pod.namespace}/{pod.name}", reason=reason, message=message)
        try:
            self._events.put_nowait((pod, reason, message))
        except queue.Full:
            _log.warning("event_dropped", pod=pod.name, reason=reason)

    def _tell_all(self) -> None:
        while (one := self._events.get()) is not None:
            pod, reason, message = one
            body = _event(pod, reason, message, self._node, datetime.now(UTC))
            path = f"/api/v1/namespaces/{quote(pod.namespace)}/events"
            try:
                status, _ = self._ask("POST", path, body)
            except DaemonUnreachable as error:
                _log.warning("event_not_sent", pod=pod.name, reason=error.message)
                continue
            if status != http.client.CREATED:
                _log.warning("event_not_sent", pod=pod.name, reason=f"the answer is {status}")

    def _ask(
        self, method: str, path: str, body: object = None, timeout_s: float = _TIMEOUT_S
    ) -> tuple[int, Any]:
        where = self._access
        connection = http.client.HTTPSConnection(
            where.host, where.port, timeout=timeout_s, context=self._tls
        )
        try:
            headers = {
                "Authorization": f"Bearer {where.token.read_text().strip()}",
                "Accept": "application/json",
                "Content-Type": "application/json",
            }
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            raw = answer.read()
            return answer.status, json.loads(raw) if answer.status < http.client.BAD_REQUEST else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonUnreachable(
                f"the API server at {where.host}:{where.port} does not answer: {error}"
            ) from error
        finally:
            connection.close()


def pod_of(data: Mapping[str, Any], resource: str = "") -> Pod:
    """A pod as the API server writes it. What it leaves out is not yet so.

    Args:
        data: as it answers.
        resource: whose numbers are read of its containers.
    """
    meta, spec, status = data["metadata"], data.get("spec", {}), data.get("status", {})
    states = {
        one["name"]: one.get("state", {})
        for kind in ("initContainerStatuses", "containerStatuses")
        for one in status.get(kind) or ()
    }
    containers = [
        *(_container(one, states, resource, init=True) for one in spec.get("initContainers") or ()),
        *(_container(one, states, resource, init=False) for one in spec.get("containers") or ()),
    ]
    phase = status.get("phase", "Pending")
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        node=spec.get("nodeName", ""),
        containers=tuple(containers),
        ended=phase in ("Succeeded", "Failed"),
        pending=phase == "Pending",
        started_s=_seconds(status.get("startTime")),
        annotations=dict(meta.get("annotations") or {}),
        maker=_maker(meta),
    )


def _maker(meta: Mapping[str, Any]) -> str:
    """What makes such pods again and again, as far as the pod itself says it."""
    of = next((one for one in meta.get("ownerReferences") or () if one.get("controller")), None)
    if of is None:
        return ""
    kind, name = of["kind"], of["name"]
    version = (meta.get("labels") or {}).get("pod-template-hash")
    if kind == "ReplicaSet" and version:
        # A Deployment's, named after it and its pods' template.
        kind, name = "Deployment", name.removesuffix(f"-{version}")
    elif kind == "Job" and (scheduled := _SCHEDULED.fullmatch(name)):
        kind, name = "CronJob", scheduled[1]
    return f"{meta['namespace']}/{kind}/{name}"


def _container(
    spec: Mapping[str, Any], states: Mapping[str, Any], resource: str, *, init: bool
) -> Container:
    kind = Kind.MAIN
    if init:
        kind = Kind.SIDECAR if spec.get("restartPolicy") == "Always" else Kind.INIT
    state = states.get(spec["name"], {})
    asked = ((spec.get("resources") or {}).get("limits") or {}).get(resource, "0")
    slots = parse_quantity(str(asked))  # a whole number, the API server sees to that; "1k" is one
    return Container(
        spec["name"],
        kind,
        "running" in state,
        "terminated" in state,
        slots,
        spec.get("image", ""),
        (*(spec.get("command") or ()), *(spec.get("args") or ())),
    )


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else math.inf


def _event(pod: Pod, reason: str, message: str, node: str, now: datetime) -> dict[str, Any]:
    when = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{pod.name[:200]}.", "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
        "reason": reason,
        "message": message[:1024],  # the API server takes no more
        "type": "Normal" if reason in _NORMAL else "Warning",
        "source": {"component": "harp-device-plugin", "host": node},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
