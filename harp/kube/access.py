# SPDX-License-Identifier: Apache-2.0
"""Where the API server is, and who we are to it: a pod's service account, or a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from harp.errors import ConfigError

__all__ = ["IN_CLUSTER", "Access", "find"]

#: in place of a kubeconfig's name: the pod's service account and nothing else
IN_CLUSTER = "in-cluster"
#: what the client raises where a file is no kubeconfig at all
_NO_KUBECONFIG = (yaml.YAMLError, TypeError, KeyError, AttributeError)
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Access:
    """One API server and one identity."""

    client: ApiClient
    namespace: str = "default"  #: where we live, or what the kubeconfig's context says

    @property
    def url(self) -> str:
        """Of the API server, without a slash at its end."""
        return str(self.client.configuration.host).rstrip("/")

    def headers(self) -> dict[str, str]:
        """Who we are, now: tokens are renewed.

        Raises:
            ConfigError: the token cannot be read.
        """
        try:
            auth = self.client.configuration.auth_settings()
        except (OSError, config.ConfigException) as error:
            raise ConfigError(
                f"the token cannot be read: {error}",
                "let the pod have its service account: automountServiceAccountToken: true",
            ) from error
        return {
            str(one["key"]): str(one["value"]) for one in auth.values() if one["in"] == "header"
        }


def find(name: str = "", env: Mapping[str, str] | None = None) -> Access:
    """The API server to use.

    Args:
        name: a kubeconfig, or IN_CLUSTER. Empty: the pod's service account, else $KUBECONFIG, else
            ~/.kube/config.
        env: this process's.

    Raises:
        ConfigError: there is none, or it is not good.
    """
    env = os.environ if env is None else env
    settings = Configuration()
    try:
        if name == IN_CLUSTER or (not name and env.get("KUBERNETES_SERVICE_HOST")):
            config.load_incluster_config(client_configuration=settings)
            namespace = _NAMESPACE.read_text().strip() if _NAMESPACE.is_file() else "default"
        else:
            file = name or env.get("KUBECONFIG") or str(Path.home() / ".kube/config")
            config.load_kube_config(file, client_configuration=settings, persist_config=False)
            _, active = config.list_kube_config_contexts(file)
            namespace = str((active.get("context") or {}).get("namespace") or "default")
    except (config.ConfigException, OSError, ValueError, *_NO_KUBECONFIG) as error:
        what = name or "this pod's service account, $KUBECONFIG and ~/.kube/config"
        raise ConfigError(
            f"no API server is known by {what}: {error}",
            "name a kubeconfig with --kubeconfig, or run in a pod with a service account",
        ) from error
    if not settings.verify_ssl:
        raise ConfigError(
            "the kubeconfig says insecure-skip-tls-verify, and HARP verifies",
            "give certificate-authority(-data) instead",
        )
    return Access(ApiClient(settings), namespace)
