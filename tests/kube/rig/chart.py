# SPDX-License-Identifier: Apache-2.0
"""Helm on the cluster, and HARP's chart by it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from rig.binaries import ROOT, SCHEDULER
from rig.cluster import Cluster
from rig.machine import NET, RUN, sh

__all__ = ["DEVICES", "NAMESPACE", "Chart"]

NAMESPACE = "harp-system"
DEVICES = ("t4-16g", "t4-16g")
_CHART = ROOT / "deploy" / "helm" / "harp"
_RELEASE = "harp"
#: what every installation here has; what is not said is the chart's
_VALUES: Mapping[str, Any] = {
    "image": {"registry": "localhost", "pullPolicy": "Never", "scheduler": SCHEDULER},
    "softwareGpu": {"enabled": True, "devices": ",".join(DEVICES)},
    "gpusPerNode": len(DEVICES),
    "extender": {"enabled": False},
    "plugin": {"healthyAfterSeconds": 10},  # a minute is what it takes else
}


class Chart:
    """The release of it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # Its folders are in the rig's: nothing of another cluster at the same address is known.
        self._env = {**os.environ, "HOME": str(RUN), "KUBECONFIG": str(cluster.control.admin)}
        #: as it is installed, beside _VALUES
        self.values: dict[str, Any] = {}

    def helm(self, *arguments: str, text: str | None = None) -> str:
        """Real helm; what it said.

        Raises:
            RuntimeError: it failed.
        """
        program = sh(sys.executable, ROOT / "deploy" / "tools" / "kubetools", "helm").strip()
        enter = ["nsenter", f"--net=/run/netns/{NET}", program, "-n", NAMESPACE]
        return sh(*enter, *arguments, env=self._env, input=text)

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """Install it so, or change it to that; pods come afterwards."""
        self.values = dict(values or {})
        parts = json.dumps({**_VALUES, **self.values})
        self._upgrade("--create-namespace", "--values=-", text=parts)

    def uninstall(self) -> str:
        """Off every node and out of the cluster, as its README says; what the cleanup said."""
        self._upgrade("--reuse-values", "--set=cleanup.enabled=true")
        said = []
        for kind in ("node", "remote"):
            name = f"daemonset/{_RELEASE}-cleanup-{kind}"
            if self._cluster.kubectl("-n", NAMESPACE, "get", name, "--ignore-not-found"):
                self._cluster.kubectl("-n", NAMESPACE, "rollout", "status", name, "--timeout=120s")
                said.append(self._cluster.kubectl("-n", NAMESPACE, "logs", name))
        self.helm("uninstall", _RELEASE)
        return "".join(said)

    def _upgrade(self, *arguments: str, text: str | None = None) -> None:
        self.helm("upgrade", "--install", _RELEASE, str(_CHART), *arguments, text=text)
