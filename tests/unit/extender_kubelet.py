# SPDX-License-Identifier: Apache-2.0
"""Kubelets as far as the extender depends on them: they serve bound pods, in any order."""

from __future__ import annotations

from fake_kube import Body, FakeKube

from device_plugin.api import pod_of
from device_plugin.hint import hinted
from device_plugin.identity import Owner
from device_plugin.slots import Gpu, Slots
from harp.extender.objects import RESOURCE, Claim, PodInfo
from harp.extender.room import best
from harp.extender.state import View


class Kubelet:
    """Serves pods that are bound, in any order, by the plugin's own rules; says later that it has.

    Args:
        kube: where the pods are.
        names: of the nodes.
        gpus: of each.
    """

    def __init__(self, kube: FakeKube, names: tuple[str, ...], gpus: int = 2) -> None:
        self.kube = kube
        ids = [f"GPU-{at:08x}-0000-0000-0000-000000000000" for at in range(gpus)]
        self.slots = Slots([Gpu(uuid, at, 1 << 34) for at, uuid in enumerate(ids)])
        kube.kubelet = False
        self.free = {name: [100] * gpus for name in names}
        #: {uid: [(GPU, slots)]}
        self.has: dict[str, list[tuple[int, int]]] = {}
        self.where: dict[str, str] = {}
        self.refused: list[str] = []

    def bound(self) -> list[Body]:
        return [one for one in self.kube.pods() if one["spec"].get("nodeName")]

    def unserved(self) -> list[Body]:
        return [
            one
            for one in self.bound()
            if one["metadata"]["uid"] not in self.has and one["status"]["phase"] == "Pending"
        ]

    def untold(self) -> list[Body]:
        return [
            one
            for one in self.bound()
            if one["metadata"]["uid"] in self.has and "startTime" not in one["status"]
        ]

    def serve(self, body: Body) -> None:
        """Slots for one pod, or none: then it has failed."""
        name, uid = body["spec"]["nodeName"], body["metadata"]["uid"]
        own, have = pod_of(body, RESOURCE), set[Owner]()
        mine: list[tuple[int, int]] = []
        for container in own.containers:
            if not container.slots:
                continue
            waiting = [pod_of(one, RESOURCE) for one in self.bound()]
            count = max(1, container.slots // 100)
            each = container.slots // count
            gpus = hinted(self.slots, container.slots, waiting, have, name)
            if not gpus or any(self.free[name][gpu] < each for gpu in gpus):
                gpus = best(self.free[name], count, each)
            if len(gpus) < count:
                break
            have.add(Owner(own.namespace, own.name, container.name))
            mine += [(gpu, each) for gpu in gpus]
            for gpu in gpus:
                self.free[name][gpu] -= each
        else:
            self.has[uid], self.where[uid] = mine, name
            return
        for gpu, each in mine:
            self.free[name][gpu] += each
        self.refused.append(own.name)
        self.kube.fail(body)

    def end(self, uid: str) -> None:
        for gpu, each in self.has.pop(uid, ()):
            self.free[self.where[uid]][gpu] += each

    def believed(self, view: View) -> dict[str, list[tuple[int, int]]]:
        """Of pods that live and have begun: what the extender is sure they have."""
        return {
            pod.uid: [
                (int(name), min(100, claim.slots))
                for name, claim in zip(pod.gpus, _each(pod), strict=True)
            ]
            for name in self.free
            for pod in view.on(name)
            if pod.gpus and pod.started_s is not None and pod.uid in self.has
        }


def _each(pod: PodInfo) -> list[Claim]:
    """A claim for each GPU."""
    return [claim for claim in pod.claims for _ in range(max(1, claim.slots // 100))]
