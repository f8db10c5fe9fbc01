# SPDX-License-Identifier: Apache-2.0
"""Pods of the tests: each test has a namespace, which goes with all that is in it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig import cgroups
from rig.client import ApiError
from rig.harp import RESOURCE, Harp
from rig.machine import wait_for

__all__ = ["DEMO", "Pod", "Space", "container"]

DEMO = "localhost/harp-demo:0.1.0"


def container(
    name: str,
    command: Sequence[str],
    share: int = 0,
    *,
    env: Mapping[str, str] | None = None,
    **more: object,
) -> dict[str, Any]:
    """A container of the demo image, with that many slots."""
    made: dict[str, Any] = {
        "name": name,
        "image": DEMO,
        "imagePullPolicy": "Never",
        "command": list(command),
        **more,
    }
    if share:
        made["resources"] = {"limits": {RESOURCE: str(share)}}
    if env:
        made["env"] = [{"name": key, "value": value} for key, value in env.items()]
    return made


class Pod:
    """A pod of a test's."""

    def __init__(self, harp: Harp, namespace: str, name: str) -> None:
        self.harp, self.namespace, self.name = harp, namespace, name
        self.path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        self.client = harp.cluster.client

    @property
    def object(self) -> dict[str, Any]:
        """As the API server has it."""
        return self.client.get(self.path)

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded or Failed."""
        return self.object["status"].get("phase", "")

    def why(self) -> str:
        """All that its status says about why it is as it is."""
        status = self.object["status"]
        parts = [status.get("reason", ""), status.get("message", "")]
        parts += [one.get("message", "") for one in status.get("conditions", ())]
        for one in self._statuses(status):
            for state in (*one.get("state", {}).values(), *one.get("lastState", {}).values()):
                parts.append(f"{one['name']}: {state.get('reason')} {state.get('message', '')}")
        return "; ".join(part for part in parts if part)

    def until(self, *phases: str, limit_s: float = 60) -> str:
        """Wait for one of these phases; an end that is none of them fails at once."""

        def look() -> str:
            phase = self.phase
            self._check_image()
            if phase in ("Failed", "Succeeded") and phase not in phases:
                raise AssertionError(f"{self.name} is {phase}: {self.why()}: {self.logs()}")
            return phase if phase in phases else ""

        try:
            return wait_for(f"{self.name} is {' or '.join(phases)}", look, limit_s=limit_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {self.phase}: {self.why()}") from None

    def containers(self) -> list[str]:
        """Names of all it has, init containers first."""
        found = self.client.find(self.path)
        spec = found["spec"] if found else {}
        return [
            one["name"] for kind in ("initContainers", "containers") for one in spec.get(kind, ())
        ]

    def log(self, name: str = "") -> str:
        """What a container has said."""
        return self.client.text("GET", f"{self.path}/log" + (f"?container={name}" if name else ""))

    def logs(self) -> str:
        """What all of them have, for a message."""
        spec, said = self.object["spec"], []
        for one in (*spec.get("initContainers", ()), *spec["containers"]):
            try:
                said.append(f"[{one['name']}] {self.log(one['name'])[-2000:]}")
            except ApiError as error:
                said.append(f"[{one['name']}] {error}")
        return "\n".join(said)

    def says(self, text: str, name: str = "", *, limit_s: float = 60) -> str:
        """Wait for a container to have said this; all it said."""

        def look() -> str:
            try:
                said = self.log(name)
            except ApiError:  # it has not begun
                said = ""
                self._check_image()
            if text not in said and self.phase == "Failed":
                raise AssertionError(f"{self.name} failed: {self.why()}: {self.logs()}")
            return said if text in said else ""

        return wait_for(f"{self.name} says {text!r}", look, limit_s=limit_s)

    def _check_image(self) -> None:
        """An image that is not there will not come: nothing is to be waited for."""
        for one in self._statuses(self.object["status"]):
            if "ErrImage" in one.get("state", {}).get("waiting", {}).get("reason", ""):
                raise AssertionError(f"{self.name}: {self.why()}")

    def restarts(self, name: str = "main") -> int:
        """How often a container has been started again."""
        for one in self._statuses(self.object["status"]):
            if one["name"] == name:
                return int(one["restartCount"])
        return 0

    def pid(self, name: str = "main") -> int:
        """Pid of a container's program, as the machine sees it."""

        def look() -> int:
            for one in self._statuses(self.object["status"]):
                if one["name"] == name and "running" in one.get("state", {}):
                    return self.harp.pid_of(one["containerID"])
            return 0

        return wait_for(f"{self.name}/{name} runs", look)

    def run(self, *command: str, name: str = "main") -> subprocess.CompletedProcess[str]:
        """Run a command in a container, as `kubectl exec` does, with its environment."""
        pid = self.pid(name)
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            env = dict(
                entry.decode().split("=", 1) for entry in file.read().split(b"\0") if b"=" in entry
            )
        enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--net", "--ipc", "--root"]
        return subprocess.run(
            [*enter, *command], env=env, check=False, capture_output=True, text=True
        )

    def events(self, reason: str = "") -> list[str]:
        """What was said of it."""
        path = f"/api/v1/namespaces/{self.namespace}/events"
        found = self.client.get(path, fieldSelector=f"involvedObject.name={self.name}")["items"]
        return [one["message"] for one in found if not reason or one["reason"] == reason]

    def end(self) -> None:
        """Gone, with all its processes."""
        found = self.client.find(self.path)
        if found is None:
            return
        self.client.delete(self.path)
        uid = found["metadata"]["uid"]
        wait_for(f"{self.name} is gone", lambda: not cgroups.of_pod(uid) and not self._there(uid))

    def _there(self, uid: str) -> bool:
        found = self.client.find(self.path)
        return found is not None and found["metadata"]["uid"] == uid

    @staticmethod
    def _statuses(status: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            *status.get("initContainerStatuses", ()),
            *status.get("containerStatuses", ()),
        ]


class Space:
    """A test's namespace."""

    def __init__(self, harp: Harp, test: str) -> None:
        self.harp, self.mark = harp, secrets.token_hex(2)
        name = self.name = f"hk-{test[:50].strip('-')}-{self.mark}"
        self.pods: list[Pod] = []
        harp.cluster.client.create(
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )
        path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_for("the namespace's account", lambda: harp.cluster.client.find(path))

    def pod(
        self,
        name: str,
        *containers: Mapping[str, Any],
        annotations: Mapping[str, str] | None = None,
        init: Sequence[Mapping[str, Any]] = (),
        restart: str = "Never",
        unique: bool = True,
        **more: object,
    ) -> Pod:
        """A new pod, just created."""
        # Tenants of pods that are gone live on for half a minute: names are not used again.
        made = Pod(self.harp, self.name, f"{name}-{self.mark}" if unique else name)
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": made.name, "annotations": dict(annotations or {})},
            "spec": {
                "restartPolicy": restart,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "initContainers": list(init),
                "containers": list(containers),
                **more,
            },
        }
        self.harp.cluster.client.create(f"/api/v1/namespaces/{self.name}/pods", body)
        self.pods.append(made)
        return made

    def tenants(self) -> dict[str, dict[str, Any]]:
        """harpd's tenants of this namespace's pods, by "pod/container"."""
        found = {}
        for pod in self.pods:
            for one in pod.containers():
                if (tenant := self.harp.tenant(self.name, pod.name, one)) is not None:
                    found[f"{pod.name.removesuffix(f'-{self.mark}')}/{one}"] = tenant
        return found

    def end(self) -> None:
        """Gone, with all its pods."""
        client = self.harp.cluster.client
        for one in client.get(f"/api/v1/namespaces/{self.name}/pods")["items"]:
            Pod(self.harp, self.name, one["metadata"]["name"]).end()
        client.delete(f"/api/v1/namespaces/{self.name}")
