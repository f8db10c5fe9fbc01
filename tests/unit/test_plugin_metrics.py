# SPDX-License-Identifier: Apache-2.0
"""What the device plugin counts, and its page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from plugin_cases import gpus, slots_of
from prometheus_client.parser import text_string_to_metric_families

from device_plugin.__main__ import _settings
from device_plugin.allocator import Chooser, Reason
from device_plugin.answer import Answer
from device_plugin.metrics import Counts
from device_plugin.plugin import _Registration
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.registration import Action, Event, Look, Register, Registered, SocketFile
from device_plugin.registration import Served as Listening
from device_plugin.server import Listing, Service
from device_plugin.settings import Settings
from harp.errors import ConfigError, DaemonUnreachable
from harp.metrics import PLUGIN, Family, Kind, expose, families

RES = "harp.dev/gpu-share"
UUIDS = [gpu.uuid for gpu in gpus(2)]


class _Aborted(Exception):
    pass


class _Context:
    def abort(self, _code: grpc.StatusCode, _details: str) -> None:
        raise _Aborted


class _Starter:
    """Starts as it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def start(self, ids: object) -> Any:
        if self.error is not None:
            raise self.error
        return ids


class _Performed(_Registration):
    """Whose actions succeed without a socket."""

    own: SocketFile

    def _perform(self, action: Action) -> Event:
        match action:
            case Register(kubelet):
                return Registered(kubelet)
            case _:
                return Listening(self.own)


def _service(counts: Counts) -> tuple[Service, _Starter]:
    slots, starter = slots_of(2), _Starter()
    service = Service(
        slots,
        Listing(slots, topology=False),
        Chooser(),
        answer=lambda *_: Answer({}, (), ()),
        starter=starter,
        counts=counts,
    )
    return service, starter


def _counts() -> Counts:
    return Counts(RES, [(gpu.uuid, gpu.index) for gpu in gpus(2)])


def _text(counts: Counts, ill: tuple[str, ...] = ()) -> str:
    return expose(PLUGIN, counts.samples(registered=True, grants=3, ill=ill))[0].decode()


def _aborts(call: Callable[[], object]) -> None:
    with pytest.raises(_Aborted):
        call()


def test_series_are_there_at_zero_before_anything_happens() -> None:
    """A counter whose first value is 1 shows no increase."""
    lines = [line for line in _text(_counts()).splitlines() if not line.startswith("#")]
    known = {family.name for family in PLUGIN if family is not families.PLUGIN_START_ERRORS}
    assert {line.partition("{")[0] for line in lines} == known
    zero = {line for line in lines if line.endswith(" 0.0")}
    counters = {family.name for family in PLUGIN if family.kind is Kind.COUNTER}
    assert {line for line in lines if line.partition("{")[0] in counters} == zero
    for reason in Reason:
        assert f'harp_plugin_allocate_errors_total{{reason="{reason.value}",' in "\n".join(lines)


def test_the_parser_reads_health_and_registration() -> None:
    read = {
        (sample.name, sample.labels.get("uuid", "")): sample.value
        for metric in text_string_to_metric_families(_text(_counts(), (UUIDS[1],)))
        for sample in metric.samples
    }
    assert read["harp_device_healthy", UUIDS[0]] == 1
    assert read["harp_device_healthy", UUIDS[1]] == 0
    assert read["harp_plugin_registered", ""] == 1
    assert read["harp_plugin_grants", ""] == 3


def test_calls_of_kubelet_are_counted() -> None:
    counts = _counts()
    service, starter = _service(counts)
    context = cast("Any", _Context())
    ids = slots_of(2).ids(0)[:30]
    service.GetPreferredAllocation(
        pb.PreferredAllocationRequest(
            container_requests=[
                pb.ContainerPreferredAllocationRequest(available_deviceIDs=ids, allocation_size=5)
            ]
        ),
        context,
    )
    ask = pb.ContainerAllocateRequest
    service.Allocate(pb.AllocateRequest(container_requests=[ask(devices_ids=ids)] * 2), context)
    _aborts(
        lambda: service.Allocate(
            pb.AllocateRequest(container_requests=[ask(devices_ids=["none"])]), context
        )
    )
    start = pb.PreStartContainerRequest(devices_ids=ids)
    service.PreStartContainer(start, context)
    starter.error = DaemonUnreachable("away")
    _aborts(lambda: service.PreStartContainer(start, context))
    starter.error = ValueError("odd")
    _aborts(lambda: service.PreStartContainer(start, context))
    assert counts.value(families.PLUGIN_PREFERRED) == 1
    assert counts.value(families.PLUGIN_ALLOCATIONS) == 2
    assert counts.value(families.PLUGIN_REFUSED, Reason.UNKNOWN.value) == 1
    assert counts.value(families.PLUGIN_REFUSED, Reason.EMPTY.value) == 0
    assert counts.value(families.PLUGIN_STARTS) == 1
    assert counts.value(families.PLUGIN_START_ERRORS, "DaemonUnreachable") == 1
    assert counts.value(families.PLUGIN_START_ERRORS, "broken") == 1


def test_registrations_and_kubelets_after_the_first_are_counted() -> None:
    counts = _counts()
    own, first, second = (SocketFile(1, inode, 1) for inode in (1, 2, 3))
    registration = _Performed(Settings(), cast("Any", None), 1.0, counts)
    registration.own = own
    for kubelet in (None, first, first, None, second, second):
        registration._take(Look(registration.state.own, kubelet))
    assert counts.value(families.PLUGIN_REGISTRATIONS) == 2
    assert counts.value(families.PLUGIN_KUBELET_RESTARTS) == 1


def test_no_count_is_lost_between_threads() -> None:
    counts, began = _counts(), threading.Barrier(8)

    def count() -> None:
        began.wait()
        for _ in range(2000):
            counts.add(families.PLUGIN_ALLOCATIONS)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.value(families.PLUGIN_ALLOCATIONS) == 16_000


def test_where_to_serve_is_read_at_once(tmp_path: Path) -> None:
    arguments = ["--node", "n", "--state-dir", str(tmp_path)]
    assert _settings(arguments).metrics_listen == ""
    assert _settings([*arguments, "--metrics", "9408"]).metrics_listen == "9408"
    with pytest.raises(ConfigError, match="no address"):
        _settings([*arguments, "--metrics", ":9408"])


def test_no_resource_label_is_forgotten() -> None:
    for family in PLUGIN:
        assert isinstance(family, Family)
        assert family.labels[0] in ("resource", "gpu"), family.name


def test_a_plugin_whose_thread_ended_is_ill() -> None:
    from device_plugin.plugin import Plugin

    plugin = Plugin.__new__(Plugin)
    alive = SimpleNamespace(name="a", is_alive=lambda: True)
    ended = SimpleNamespace(name="b", is_alive=lambda: False)
    plugin._threads = cast("Any", [alive])
    assert asyncio.run(plugin._healthz("")).status == 200
    plugin._threads = cast("Any", [alive, ended])
    page = asyncio.run(plugin._healthz(""))
    assert (page.status, page.body) == (503, b"ended: b; see the plugin's log\n")
