# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told: names, samples, exposition, and the server that hands it out."""

from __future__ import annotations

from harp.metrics.estimates import EstimatorSeen, PoolSeen
from harp.metrics.exposition import expose, parse
from harp.metrics.families import PLUGIN, REMOTE, Distribution, Family, Kind, Sample
from harp.metrics.samples import DeviceSeen, GrantSeen, Seen, samples
from harp.metrics.series import DAEMON
from harp.metrics.server import Page, Server, ServerThread, keep
from harp.metrics.totals import Total, Totals

__all__ = [
    "DAEMON",
    "PLUGIN",
    "REMOTE",
    "DeviceSeen",
    "Distribution",
    "EstimatorSeen",
    "Family",
    "GrantSeen",
    "Kind",
    "Page",
    "PoolSeen",
    "Sample",
    "Seen",
    "Server",
    "ServerThread",
    "Total",
    "Totals",
    "expose",
    "keep",
    "parse",
    "samples",
]
