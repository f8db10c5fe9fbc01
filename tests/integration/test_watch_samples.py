# SPDX-License-Identifier: Apache-2.0
"""Watch of a real harpd: a tenant's figures move, harpd is replaced, harpd is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.errors import DaemonUnreachable
from tests.integration.machine import Machine, machine, wait_for

MIB = 1 << 20


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def first(reply: pb.WatchSamplesReply) -> pb.TenantSample | None:
    return reply.sample.tenants[0] if reply.sample.tenants else None


def test_a_tenant_is_seen_from_its_grant_to_its_end(box: Machine) -> None:
    box.start_harpd()
    with Client.connect(box.env) as client:
        watch = client.watch(20)
        before = next(watch).sample
        assert [device.kind for device in before.devices] == [pb.DEVICE_KIND_SOFTWARE]
        assert not before.tenants
        tenant = box.gpu_tenant("--mem", "256MiB", "--share", "30%", mib=64)
        held = wait_for(
            lambda: (seen := first(next(watch))) and seen.uses[0].leased_bytes and seen,
            "its memory",
        )
        assert held.uses[0].leased_bytes == 64 * MIB
        assert (held.mem_limit_bytes, held.share_ppm) == (256 * MIB, 300_000)
        assert held.processes == 1
        tenant.communicate("", timeout=30)
        wait_for(lambda: not next(watch).sample.tenants, "its end")
        watch.close()


def test_samples_come_as_often_as_asked(box: Machine) -> None:
    box.start_harpd()
    with Client.connect(box.env) as client:
        began_s, due = time.monotonic(), 0
        watch = client.watch(50)
        next(watch)
        for _ in range(20):
            due += 1 + next(watch).dropped
        # Those that harpd had no time for come later; none comes before its time.
        assert time.monotonic() - began_s >= due * 0.05
        watch.close()


def test_a_new_arbiter_is_no_end_and_a_stop_is_a_quiet_one(box: Machine) -> None:
    box.start_harpd()
    with Client.connect(box.env) as client:
        watch = client.watch(20)
        next(watch)
        arbiter = client.info().arbiter_pid
        os.kill(arbiter, signal.SIGKILL)
        wait_for(lambda: client.info().arbiter_pid not in (0, arbiter), "another arbiter")
        wait_for(lambda: not next(watch).sample.problem, "samples of it")
        client.stop(with_arbiter=True)
        end = time.monotonic() + 10
        for _ in watch:
            assert time.monotonic() < end


def test_a_harpd_that_is_killed_is_an_error(box: Machine) -> None:
    box.start_harpd()
    with Client.connect(box.env) as client:
        watch = client.watch(20)
        next(watch)
        os.kill(box.harpd_pid(), signal.SIGKILL)
        with pytest.raises(DaemonUnreachable):
            for _ in watch:
                pass
    box.start_harpd()
    with Client.connect(box.env) as client:
        assert next(client.watch(1000)).sample.devices
