# SPDX-License-Identifier: Apache-2.0
"""What the device plugin counts, and its page."""

from __future__ import annotations

import asyncio
import itertools
import re
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
from device_plugin.identity import Holding, Owner
from device_plugin.metrics import Counts, Part
from device_plugin.pages import Now, Pages
from device_plugin.plugin import Registrar
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.registration import (
    Action,
    Event,
    Failed,
    Look,
    Register,
    Registered,
    SocketFile,
)
from device_plugin.registration import Served as Listening
from device_plugin.server import Listing, Service
from device_plugin.settings import Settings
from harp.errors import ConfigError, DaemonUnreachable
from harp.metrics import PLUGIN, Distribution, Family, Kind, expose, families

RES = "harp.dev/gpu-share"
UUIDS = [gpu.uuid for gpu in gpus(2)]


class _Aborted(Exception):
    pass


class _Context:
    def is_active(self) -> bool:
        return True

    def abort(self, _code: grpc.StatusCode, _details: str) -> None:
        raise _Aborted


class _Starter:
    """Starts as it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def start(self, ids: object, waited: object) -> Any:
        del waited
        if self.error is not None:
            raise self.error
        return ids


class _Performed(Registrar):
    """Whose actions succeed without a socket; a registration only if it is not refused."""

    own: SocketFile
    refuses = False

    def _perform(self, action: Action) -> Event:
        match action:
            case Register(_) if self.refuses:
                return Failed(action)
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
    not_before = (families.PLUGIN_START_ERRORS, families.PLUGIN_XID, families.PLUGIN_SLOTS)
    known = {family.name for family in PLUGIN if family not in not_before}
    parts = re.compile("_(bucket|sum|count)$")
    names = {line: parts.sub("", line.partition("{")[0]) for line in lines}
    assert set(names.values()) == known
    zero = {line for line in lines if line.endswith(" 0.0")}
    counted = {family.name for family in PLUGIN if family.kind is not Kind.GAUGE}
    assert {line for line in lines if names[line] in counted} == zero
    for reason in Reason:
        assert f'harp_plugin_allocate_errors_total{{reason="{reason.value}",' in "\n".join(lines)
    assert sum(line.startswith("harp_plugin_errors_total{") for line in lines) == len(Part)


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


def test_how_long_a_gpu_is_left_out_may_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--node", "n"]
    assert _settings(arguments).clean_s == 60
    assert _settings([*arguments, "--healthy-after", "10"]).clean_s == 10
    for wrong in ("0.5", "86401", "nan"):
        with pytest.raises(SystemExit):
            _settings([*arguments, "--healthy-after", wrong])
        assert "--healthy-after takes 1 to 86400 seconds" in capsys.readouterr().err


def test_no_resource_label_is_forgotten() -> None:
    for family in PLUGIN:
        assert isinstance(family, Family)
        assert family.labels[0] in ("resource", "gpu"), family.name


class _Kubelet:
    """Lists what it is told; None: it does not answer."""

    def __init__(self, *holdings: Holding) -> None:
        self.listed: tuple[Holding, ...] | None = holdings

    def holdings(self) -> list[Holding]:
        if self.listed is None:
            raise DaemonUnreachable("no kubelet")
        return list(self.listed)


def _pages(kubelet: _Kubelet, counts: Counts, *threads: Any) -> Pages:
    now = Now(registered=True, grants=3, ill=(UUIDS[1],))
    return Pages(slots_of(2), counts, cast("Any", kubelet), lambda: now, lambda: threads)


def _scrape(pages: Pages) -> dict[tuple[str, str, str], float]:
    """{(name, container or part, uuid): value}"""
    text = asyncio.run(pages.metrics("")).body.decode()
    return {
        (s.name, s.labels.get("container", s.labels.get("part", "")), s.labels.get("uuid", "")): (
            s.value
        )
        for metric in text_string_to_metric_families(text)
        for s in metric.samples
    }


def test_the_page_says_what_is_so_and_what_was_counted() -> None:
    found = _scrape(_pages(_Kubelet(), _counts()))
    assert found["harp_plugin_registered", "", ""] == 1
    assert found["harp_plugin_grants", "", ""] == 3
    assert found["harp_device_healthy", "", UUIDS[0]] == 1
    assert found["harp_device_healthy", "", UUIDS[1]] == 0
    assert found["harp_plugin_allocations_total", "", ""] == 0


def test_a_containers_slots_are_told_while_kubelet_lists_them() -> None:
    slots = slots_of(2)
    small, large = Owner("ns", "pod", "small"), Owner("ns", "pod", "large")
    both = frozenset((*slots.ids(0)[40:], *slots.ids(1)))
    kubelet = _Kubelet(
        Holding(small, frozenset((*slots.ids(0)[:30], "of-a-gpu-that-is-gone"))),
        Holding(large, both),
    )
    pages = _pages(kubelet, _counts())
    name = "harp_plugin_slots"
    assert {k: v for k, v in _scrape(pages).items() if k[0] == name} == {
        (name, "small", UUIDS[0]): 30,
        (name, "large", UUIDS[0]): 60,
        (name, "large", UUIDS[1]): 100,
    }
    kubelet.listed = ()
    assert [k for k in _scrape(pages) if k[0] == name] == []


def test_a_kubelet_that_does_not_answer_is_counted_in_the_same_scrape() -> None:
    """Else nobody's slots would look like slots that nobody has."""
    kubelet = _Kubelet()
    pages = _pages(kubelet, _counts())
    assert _scrape(pages)["harp_plugin_errors_total", "list", ""] == 0
    kubelet.listed = None
    assert _scrape(pages)["harp_plugin_errors_total", "list", ""] == 1
    assert _scrape(pages)["harp_plugin_errors_total", "list", ""] == 2


def test_a_plugin_whose_thread_ended_is_ill() -> None:
    alive = SimpleNamespace(name="a", is_alive=lambda: True)
    ended = SimpleNamespace(name="b", is_alive=lambda: False)
    assert asyncio.run(_pages(_Kubelet(), _counts(), alive).healthz("")).status == 200
    page = asyncio.run(_pages(_Kubelet(), _counts(), alive, ended).healthz(""))
    assert (page.status, page.body) == (503, b"ended: b; see the plugin's log\n")


def _distribution(counts: Counts, family: Family) -> Distribution:
    told = counts.samples(registered=True, grants=0, ill=())
    (found,) = (sample.value for sample in told if sample.family is family)
    assert isinstance(found, Distribution)
    return found


def test_a_time_falls_into_the_first_bucket_that_holds_it() -> None:
    counts, family = _counts(), families.PLUGIN_REREGISTER
    bounds = family.bounds
    for seconds in (bounds[0], bounds[1], bounds[1] + 0.001, bounds[-1] + 1):
        counts.observe(family, seconds)
    found = _distribution(counts, family)
    assert found.counts == (1, 2, *([3] * (len(bounds) - 2)), 4)
    assert found.total == pytest.approx(bounds[0] + 2 * bounds[1] + 0.001 + bounds[-1] + 1)


def test_calls_are_timed_however_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = _counts()
    service, starter = _service(counts)
    times = itertools.count(100.0, 2.0)  # each call begins 2 s before it ends
    clock = SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr("device_plugin.metrics.time", clock)
    context = cast("Any", _Context())
    ids = slots_of(2).ids(0)[:30]
    ask = pb.ContainerAllocateRequest
    service.Allocate(pb.AllocateRequest(container_requests=[ask(devices_ids=ids)]), context)
    bad = pb.AllocateRequest(container_requests=[ask(devices_ids=["none"])])
    _aborts(lambda: service.Allocate(bad, context))
    starter.error = DaemonUnreachable("away")
    start = pb.PreStartContainerRequest(devices_ids=ids)
    _aborts(lambda: service.PreStartContainer(start, context))
    allocate = _distribution(counts, families.PLUGIN_ALLOCATE)
    assert (allocate.counts[-1], allocate.total) == (2, 4)
    assert allocate.counts[families.PLUGIN_ALLOCATE.bounds.index(1)] == 0
    assert _distribution(counts, families.PLUGIN_START).total == 2


def test_a_new_kubelet_is_timed_from_its_first_sight_to_its_yes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = _counts()
    own, first, second = (SocketFile(1, inode, 1) for inode in (1, 2, 3))
    registration = _Performed(Settings(), cast("Any", None), 1.0, counts)
    registration.own = own
    now = SimpleNamespace(monotonic=lambda: at_s)
    monkeypatch.setattr("device_plugin.plugin.time", now)
    at_s = 10.0
    for kubelet in (None, first, first):  # the first one is no restart
        registration._take(Look(registration.state.own, kubelet))
    assert registration.state.registered
    assert _distribution(counts, families.PLUGIN_REREGISTER).counts[-1] == 0
    registration.refuses = True
    registration._take(Look(registration.state.own, second))
    at_s = 13.0
    registration.refuses = False
    registration._take(Look(registration.state.own, second))
    assert registration.state.registered
    found = _distribution(counts, families.PLUGIN_REREGISTER)
    assert (found.counts[-1], found.total) == (1, 3)
    registration._take(Look(registration.state.own, second))
    assert _distribution(counts, families.PLUGIN_REREGISTER).counts[-1] == 1


def test_each_xid_has_a_series_of_its_own() -> None:
    counts = _counts()
    for code in ("31", "79", "31"):
        counts.add_gpu(families.PLUGIN_XID, UUIDS[1], code)
    text = _text(counts)
    assert f'harp_device_xid_errors_total{{gpu="1",uuid="{UUIDS[1]}",xid="31"}} 2.0' in text
    assert f'harp_device_xid_errors_total{{gpu="1",uuid="{UUIDS[1]}",xid="79"}} 1.0' in text
