# SPDX-License-Identifier: Apache-2.0
"""Values as people set them; each is linted, validated and judged by all tests of this folder."""

from __future__ import annotations

from typing import Any

SCENARIOS: dict[str, dict[str, Any]] = {
    "default": {},
    "minimal": {
        "networkPolicy": {"enabled": False},
        "priorityClassName": "",
        "tolerations": [],
        "daemon": {"watchProcesses": False},
        "admissionPolicy": {"enabled": False},
    },
    "software": {"softwareGpu": {"enabled": True, "devices": "h100,a100"}, "gpusPerNode": 2},
    "nvidia": {
        "nvidia": {"runtimeClassName": "nvidia", "driverDir": "/usr/lib64/nvidia"},
        "image": {"registry": "registry.example.org/gpu/", "tag": "1.2"},
        "imagePullSecrets": [{"name": "pull"}],
        "podLabels": {"team": "ml"},
        "podAnnotations": {"example.org/a": "b"},
        "affinity": {"nodeAffinity": {}},
        "daemon": {"settings": {"watchdog.policy": "kill", "watchdog.period_s": 0.5}},
        "plugin": {"topology": True, "libraryDirs": ["/usr/lib64"]},
        "apiServer": {"host": "10.0.0.1", "port": 6443},
    },
    "bare driver": {"nvidia": {"privileged": True, "driverDir": "/usr/lib64/nvidia"}},
    "many GPUs": {"gpusPerNode": 8, "slotsPerGPU": 200, "podAnnotations": {"a": "b"}},
    "own scheduler": {
        "gpusPerNode": 8,
        "extender": {"mode": "service", "replicas": 1, "tls": {"secretName": "extender-tls"}},
    },
    "extender off": {"gpusPerNode": 8, "extender": {"enabled": False}},
    "remote": {
        "remote": {
            "serve": {"enabled": True, "secretName": "node-tls", "admins": ["ops"]},
            "pods": {"enabled": True, "secretName": "client-tls"},
        }
    },
    "remote pool": {
        "remote": {
            "serve": {"enabled": True, "secretName": "node-tls", "workerUids": "none"},
            "pods": {
                "enabled": True,
                "secretName": "client-tls",
                "pool": ["gpu1.example.org:7443", "gpu2.example.org:8443"],
                "tolerations": [{"operator": "Exists"}],
            },
        }
    },
    "monitoring": {
        "gpusPerNode": 2,
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    },
    "cleanup": {
        "cleanup": {"enabled": True},
        "gpusPerNode": 2,
        "remote": {"pods": {"enabled": True, "secretName": "c", "pool": ["a:7443"]}},
    },
}
