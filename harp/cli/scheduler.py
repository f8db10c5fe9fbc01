# SPDX-License-Identifier: Apache-2.0
"""`harp scheduler`: Kubernetes' scheduler extender."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
from pathlib import Path

import click
import structlog

from harp.cli.output import json_option, print_json, progress
from harp.cli.sim_place import POLICY_NAMES
from harp.errors import ConfigError

__all__ = ["scheduler"]

_PORT = 8888
_METRICS_PORT = 9404
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def scheduler() -> None:
    """Kubernetes' scheduler extender: nodes on which a share fits on one GPU."""


@scheduler.command()
@click.option(
    "--bind",
    default=f"127.0.0.1:{_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where kube-scheduler calls; port 0: any.",
)
@click.option(
    "--metrics",
    default=None,
    metavar="HOST:PORT",
    help=f"Serve /metrics and the probes here too, in plain HTTP; {_METRICS_PORT} is usual.  [no]",
)
@click.option("--tls-cert", type=_FILE, default=None, help="Serve HTTPS with this one, PEM.")
@click.option("--tls-key", type=_FILE, default=None, help="And its key.")
@click.option(
    "--tls-client-ca",
    type=_FILE,
    default=None,
    help="Only callers that this one signed, PEM; needed where --bind is not the loopback.",
)
@click.option(
    "--kubeconfig",
    default="",
    metavar="FILE|in-cluster",
    help="[the pod's service account, $KUBECONFIG or ~/.kube/config]",
)
@click.option(
    "--policy",
    type=click.Choice(POLICY_NAMES),
    default=POLICY_NAMES[0],
    show_default=True,
    help="How nodes are scored.",
)
@click.option(
    "--leader-elect/--no-leader-elect",
    default=True,
    help="Of several replicas only the one that has the lease answers.  [yes]",
)
@click.option(
    "--namespace", default="", metavar="NAME", help="Of the lease.  [the pod's or kubeconfig's]"
)
@click.option("--json-log", is_flag=True, help="Log a JSON object per line, to stderr.")
@json_option
def serve(
    *,
    bind: str,
    metrics: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    kubeconfig: str,
    policy: str,
    leader_elect: bool,
    namespace: str,
    json_log: bool,
    as_json: bool,
) -> None:
    """Answer kube-scheduler's filter, prioritize and bind until SIGTERM.

    It follows nodes and pods of the cluster. A pod that asks for harp.dev/gpu-share is let go to
    nodes where one GPU has as much, to the best of them by the policy, and is bound with an
    annotation that names the GPU. GET /readyz: this replica has seen the cluster, and leads.
    """
    try:
        from harp.extender.app import Options, Service  # noqa: PLC0415 - NumPy, not for --help
        from harp.extender.server import Tls  # noqa: PLC0415
        from harp.kube.access import find  # noqa: PLC0415
        from harp.kube.client import ApiServer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("kubernetes", "urllib3", "yaml"):
            raise
        raise ConfigError(
            "Kubernetes' client for Python is not installed", "pip install 'kubernetes>=31'"
        ) from error

    if (tls_cert is None) != (tls_key is None) or (tls_client_ca and not tls_cert):
        raise click.UsageError("--tls-cert and --tls-key go together, --tls-client-ca with them")
    where = _address("--bind", bind)
    metrics_at = _address("--metrics", metrics) if metrics else None
    access = find(kubeconfig)
    _log_to_stderr(json_lines=json_log)
    service = Service(
        ApiServer(access),
        Options(
            bind=where,
            metrics=metrics_at,
            policy=policy,
            tls=Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None,
            elect=leader_elect,
            namespace=namespace or access.namespace,
            me=f"{socket.gethostname()}_{secrets.token_hex(4)}",
        ),
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    service.start()
    places = {"bind": f"{where[0]}:{service.server.port}"}
    if metrics_at and service.metrics:
        places["metrics"] = f"{metrics_at[0]}:{service.metrics.port}"
    if as_json:
        print_json({**places, "policy": policy})
    else:
        scheme = "https" if tls_cert else "http"
        progress(f"serving at {scheme}://{places['bind']}, policy {policy}")
    ended.wait()
    service.stop()


def _address(option: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) >= 1 << 16 or not host:
        raise ConfigError(f"{option} {text!r} is no HOST:PORT", f"write 0.0.0.0:{_PORT}")
    return host.strip("[]"), int(port)


def _log_to_stderr(*, json_lines: bool) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer()
            if json_lines
            else structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
