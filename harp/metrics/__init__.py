# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told: names, samples, exposition, and the server that hands it out."""

from __future__ import annotations

from harp.metrics.dcgm import DCGM, dcgm_samples
from harp.metrics.estimates import EstimatorSeen, PoolSeen
from harp.metrics.exposition import expose, parse
from harp.metrics.fairness import Fairness
from harp.metrics.families import PLUGIN, REMOTE, Distribution, Exemplar, Family, Kind, Sample
from harp.metrics.kernels import KernelsSeen, Tops
from harp.metrics.remote import (
    SERVED,
    TRAFFIC,
    Carried,
    RemoteSeen,
    TrafficSeen,
    remote_samples,
    traffic_samples,
)
from harp.metrics.samples import DeviceSeen, GrantSeen, PartSeen, Seen, samples
from harp.metrics.series import DAEMON
from harp.metrics.server import Page, Server, ServerThread, keep
from harp.metrics.totals import Total, Totals

__all__ = [
    "DAEMON",
    "DCGM",
    "PLUGIN",
    "REMOTE",
    "SERVED",
    "TRAFFIC",
    "Carried",
    "DeviceSeen",
    "Distribution",
    "EstimatorSeen",
    "Exemplar",
    "Fairness",
    "Family",
    "GrantSeen",
    "KernelsSeen",
    "Kind",
    "Page",
    "PartSeen",
    "PoolSeen",
    "RemoteSeen",
    "Sample",
    "Seen",
    "Server",
    "ServerThread",
    "Tops",
    "Total",
    "Totals",
    "TrafficSeen",
    "dcgm_samples",
    "expose",
    "keep",
    "parse",
    "remote_samples",
    "samples",
    "traffic_samples",
]
