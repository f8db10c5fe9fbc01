# SPDX-License-Identifier: Apache-2.0
"""`python -m device_plugin`: this node's plugin, until SIGTERM."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

import structlog

from device_plugin import remote_plugin
from device_plugin.api import Access, ApiServer
from device_plugin.asked import LoggedEvents, NoPods
from device_plugin.book import Book
from device_plugin.checkpoint import Checkpoint, load
from device_plugin.estimates import Modes
from device_plugin.hardware import survey
from device_plugin.kubelet import PodResources
from device_plugin.pages import serve_pages
from device_plugin.plugin import Others, Plugin
from device_plugin.settings import Settings, common_arguments, common_values
from device_plugin.signs import HarpdSigns, NvmlSigns
from device_plugin.slots import SLOTS_PER_GPU
from device_plugin.tenants import HarpdTenants, NodeView
from harp.errors import DaemonError, HarpError, NvmlError
from harp.estimator.modes import Mode, read_modes
from harp.native import find
from harp.rundir import find as find_run_dir

__all__ = ["main"]

_log = structlog.get_logger(__name__)
_PAUSE_S = 1.0
_DAY_S = 86400


def main() -> int:
    """Command line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    try:
        if sys.argv[1:2] == ["remote"]:
            return remote_plugin.run(sys.argv[2:])
        return run(_settings(sys.argv[1:]))
    except HarpError as error:
        sys.stderr.write(f"device_plugin: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"remedy: {error.hint}\n")
        return 1


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        HarpError: it cannot begin.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    tenants = HarpdTenants(os.environ)
    before = load(settings.checkpoint)
    view = _first_look(tenants, before.node, ended)
    if view is None:
        return 0
    hardware, node = survey(
        view, find(os.environ), settings.state_dir, os.environ, run=settings.run_dir
    )
    _compare(before, node, settings.slots_per_gpu)
    access = Access.in_cluster(os.environ)
    api = ApiServer(access, settings.node, settings.resource) if access else None
    if api is None:
        _log.warning("annotations_not_read", reason="this is no pod: no API server is known")
    holders = PodResources(settings.pod_resources, settings.resource)
    signs = _signs(node, tenants)
    others = Others(tenants, holders, api or NoPods(), api or LoggedEvents(), signs)
    plugin = Plugin(settings, node, hardware, others, Book(before.grants))
    plugin.start()
    pages = serve_pages(settings.metrics_listen, plugin.routes())
    ended.wait()
    if pages is not None:
        pages.stop()
    plugin.stop()
    for part in (holders, tenants, api, signs):
        if part is not None and not isinstance(part, HarpdSigns):
            part.close()
    return 0


def _first_look(
    tenants: HarpdTenants, known: NodeView | None, ended: threading.Event
) -> NodeView | None:
    """The node as harpd sees it, or saw it when we were here before; None: we are to end."""
    silent = False
    while not ended.is_set():
        try:
            return tenants.look()
        except DaemonError as error:
            if known is not None:
                _log.warning("began_without_harpd", reason=error.message)
                return known
            if not silent:
                _log.warning("harpd_awaited", reason=error.message)
            silent = True
            ended.wait(_PAUSE_S)
    return None


def _signs(node: NodeView, tenants: HarpdTenants) -> NvmlSigns | HarpdSigns:
    try:
        return NvmlSigns(node.nvml, [gpu.uuid for gpu in node.gpus])
    except NvmlError as error:
        _log.warning("health_by_harpd_alone", reason=error.message)
        return HarpdSigns(tenants)


def _compare(before: Checkpoint, node: NodeView, per_gpu: int) -> None:
    """Say what has changed: kubelet has ids of before on its running pods."""
    if before.node is None:
        return
    if before.per_gpu != per_gpu:
        _log.warning("slots_changed", before=before.per_gpu, now=per_gpu)
    gone = {gpu.uuid for gpu in before.node.gpus} - {gpu.uuid for gpu in node.gpus}
    if gone:
        _log.warning("gpus_gone", uuids=sorted(gone))


def _settings(arguments: list[str]) -> Settings:
    usual = Settings(run_dir=find_run_dir(os.environ).path)
    parser = argparse.ArgumentParser(prog="device_plugin", description=__doc__)
    common_arguments(parser, usual)
    parser.add_argument(
        "--slots-per-gpu", type=int, choices=SLOTS_PER_GPU, default=usual.slots_per_gpu
    )
    parser.add_argument("--topology", action="store_true", help="tell kubelet NUMA nodes")
    parser.add_argument(
        "--estimate-mode",
        choices=[mode.value for mode in Mode],
        default=usual.modes.usual.value,
        help="what comes of estimates (device_plugin/estimates.py) [%(default)s]",
    )
    parser.add_argument(
        "--estimate-namespaces",
        default="",
        metavar="NAME=MODE,...",
        help="and in these namespaces",
    )
    parser.add_argument(
        "--healthy-after",
        type=float,
        default=usual.clean_s,
        metavar="S",
        help="seconds without trouble, before an unhealthy GPU is offered again [%(default)g]",
    )
    given = parser.parse_args(arguments)
    if not 1 <= given.healthy_after <= _DAY_S:
        parser.error(f"--healthy-after takes 1 to {_DAY_S} seconds, not {given.healthy_after:g}")
    return Settings(
        **common_values(given, usual),
        clean_s=given.healthy_after,
        slots_per_gpu=given.slots_per_gpu,
        topology=given.topology,
        modes=Modes(Mode(given.estimate_mode), read_modes(given.estimate_namespaces)),
    )


if __name__ == "__main__":
    sys.exit(main())
