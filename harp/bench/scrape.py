# SPDX-License-Identifier: Apache-2.0
"""What a scrape of a busy node costs: harpd's /metrics over HTTP, with a tenant a client.

Tenants have limits, a process each with the arbiter (this one plays them all) that holds memory and
has had a turn, so that no series is left out for having no value. Real are harpd, arbiter, the way
between them, HTTP. What is judged is harpd's and the arbiter's CPU time: how long a loaded machine
lets a scrape wait is not their doing. Times as a client sees them are beside it.
"""

from __future__ import annotations

import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.bench.figures import percentile
from harp.bench.machine import LABEL, Machine, machine
from harp.bench.verdict import Target, as_json
from harp.bench.watch import cpu_s
from harp.client import Client
from harp.errors import HarpError
from harp.lease_wire import GRANULE_BYTES, MSG_BYTES, VERSION, Kind, Msg, Op, version_of

__all__ = ["LIMIT_MS", "ScrapeOutcome", "run_scrape"]

#: issue 9: of 200 tenants
LIMIT_MS = 50.0
#: before those that count
_WARM = 3
_HEAR_S = 30.0
#: how long is looked at what harpd does by itself
_IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class ScrapeOutcome:
    """Scrapes of one node."""

    tenants: int
    seen: int  #: tenants that the text tells of
    series: int
    text_bytes: int
    took_ms: list[float] = field(default_factory=list)
    harpd_cpu_ms: float = 0.0  #: of one, on the average, without what harpd does by itself
    arbiter_cpu_ms: float = 0.0

    @property
    def ok(self) -> bool:
        """Every tenant was told of."""
        return self.seen == self.tenants

    @property
    def cpu_ms(self) -> float:
        """Of one scrape, on the average."""
        return self.harpd_cpu_ms + self.arbiter_cpu_ms

    def targets(self) -> list[Target]:
        """What it is held to: CPU time, and the median as a client sees it."""
        figures = {"scrape_cpu_ms": self.cpu_ms, "scrape_ms_p50": percentile(self.took_ms, 50)}
        cell = f"{self.tenants} tenants"
        return [
            Target(cell, name, value, LIMIT_MS, value <= LIMIT_MS)
            for name, value in figures.items()
        ]

    def json(self, *, load_1min: float) -> dict[str, object]:
        """For `--json`."""
        return {
            "label": LABEL,
            "software": True,
            "tenants": self.tenants,
            "series": self.series,
            "text_bytes": self.text_bytes,
            "n": len(self.took_ms),
            "scrape_ms_p50": percentile(self.took_ms, 50),
            "scrape_ms_p99": percentile(self.took_ms, 99),
            "scrape_ms_min": min(self.took_ms),
            "scrape_cpu_ms": self.cpu_ms,
            "harpd_cpu_ms": self.harpd_cpu_ms,
            "arbiter_cpu_ms": self.arbiter_cpu_ms,
            "targets": as_json(self.targets()),
            "ok": self.ok,
            "load_1min": load_1min,
        }


def run_scrape(
    env: Mapping[str, str], tenants: int, scrapes: int, *, progress: Callable[[str], None]
) -> ScrapeOutcome:
    """Measure, on a private machine.

    Args:
        env: the environment to measure in.
        tenants: of one GPU.
        scrapes: that count, one after the other.
        progress: called with a line per step.

    Raises:
        HarpError: something did not run.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    extra = {
        "HARP_CONFIG_DAEMON_METRICS_LISTEN": f"127.0.0.1:{port}",
        "HARP_CONFIG_ADMISSION_OVERCOMMIT_RATIO": "100",
        "HARP_CONFIG_ADMISSION_TENANTS_PER_USER": str(2 * tenants),
        "HARP_CONFIG_DAEMON_METRICS_GRANTS": str(2 * tenants),
    }
    with machine(env, harp=True, extra=extra) as box, _tenants(box, tenants):
        progress(f"{tenants} tenants are there")
        where = f"http://127.0.0.1:{port}/metrics"
        for _ in range(_WARM):
            text = _get(where)
        with Client.connect(box.env) as client:
            info = client.info()
        idle = _rates(info.pid, info.arbiter_pid)
        before = _cpu_ms(info.pid), _cpu_ms(info.arbiter_pid)
        began_s = time.monotonic()
        took_ms = []
        for _ in range(scrapes):
            began_ns = time.perf_counter_ns()
            text = _get(where)
            took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        all_s = time.monotonic() - began_s
        after = _cpu_ms(info.pid), _cpu_ms(info.arbiter_pid)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    each = [
        max(0.0, b - a - rate * all_s) / scrapes
        for a, b, rate in zip(before, after, idle, strict=True)
    ]
    return ScrapeOutcome(
        tenants=tenants,
        seen=sum(line.startswith("harp_grant_info{") for line in lines),
        series=len(lines),
        text_bytes=len(text.encode()),
        took_ms=took_ms,
        harpd_cpu_ms=each[0],
        arbiter_cpu_ms=each[1],
    )


@contextmanager
def _tenants(box: Machine, count: int) -> Iterator[None]:
    """So many with a client each; this process stands for all."""
    base = Path(box.env["HARP_RUN"]).parent / "g"
    with ExitStack() as stack:
        client = stack.enter_context(Client.connect(box.env))
        for number in range(count):
            folder = base / str(number)
            folder.mkdir(parents=True, mode=0o700)
            path = folder / "arbiter.sock"
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
                listening.bind(str(path))
                listening.listen(1)
                client.create(
                    pb.CreateTenantRequest(
                        name=f"t{number}",
                        mem_limit_bytes=64 << 20,
                        share_ppm=5000,
                        limit_ppm=10_000,
                        root_pid=os.getpid(),
                        grant_dir=str(folder),
                        ticket=client.deposit(listening),
                    )
                )
            stack.callback(_joined(path).close)
        yield


def _joined(path: Path) -> socket.socket:
    """A client that holds memory and has had a turn."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(_HEAR_S)
    link.connect(str(path))
    link.send(Msg(op=Op.HELLO, a=Kind.NULL, c=VERSION, pid=os.getpid(), text="scraped").pack(1))
    version = version_of(_until(link, Op.DEVICE))
    link.send(Msg(op=Op.LEASE_MEM, seq=1, amount_bytes=GRANULE_BYTES).pack(version))
    _until(link, Op.MEM_GRANT)
    link.send(Msg(op=Op.WANT_TIME).pack(version))
    opened = Msg.unpack(_until(link, Op.OPEN_GATE))
    done = Msg(op=Op.YIELD_TIME, epoch=opened.epoch, used_ns=100_000, launches=1)
    link.send(done.pack(version))
    return link


def _until(link: socket.socket, op: Op) -> bytes:
    """The next message of that kind."""
    while datagram := link.recv(MSG_BYTES):
        message = Msg.unpack(datagram)
        if message.op == op:
            return datagram
        if message.op == Op.MEM_DENY:
            break
    raise HarpError(f"the arbiter said no {op.name}", "see harpd's log")


def _get(where: str) -> str:
    with urllib.request.urlopen(where, timeout=60) as answer:  # noqa: S310 - our own, http
        text: str = answer.read().decode()
    return text


def _rates(*pids: int) -> list[float]:
    """CPU ms a second that they take though nobody scrapes: harpd looks at its devices."""
    before, began_s = [_cpu_ms(pid) for pid in pids], time.monotonic()
    time.sleep(_IDLE_S)
    passed_s = time.monotonic() - began_s
    return [(_cpu_ms(pid) - ms) / passed_s for pid, ms in zip(pids, before, strict=True)]


def _cpu_ms(pid: int) -> float:
    had_s = cpu_s(pid)
    if had_s is None:
        raise HarpError(f"process {pid} has ended", "see harpd's log")
    return 1000 * had_s
