# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' API server: access, lists that are kept, leader election.

Who we are (kubeconfigs with all their plugins, service accounts, tokens that are renewed) and TLS
are the work of the `kubernetes` package, Kubernetes' own client for Python, an extra of ours. Not
used are its models (JSON is enough, and read faster), its informer (it goes on where a handler
failed, and so loses a change) and its leader election (it cannot be stopped or asked, gives up no
lease, and reads the wall clock).
"""

from __future__ import annotations

__all__: list[str] = []
