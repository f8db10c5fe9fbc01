# SPDX-License-Identifier: Apache-2.0
"""What tenants use while they live, and the Run that is made of it when they end. Pure.

begin ── see, see, see ... (a look each) ── end ── Run
             └─ denied (the arbiter refused memory)
notes() says all that is known of who lives; who is told them goes on where this one was.

What the figures are:
(1) gpu_mem_bytes: the arbiter's high-water of what its clients hold of one device (of several, the
    one where that is most), and the most code, heaps and local memory seen beside it: what counts
    against a memory limit. Held is what the program has of the driver: a framework that caches
    holds more than it has in use, which the driver is not told. A tenant without a limit may hold
    some 64 MiB that it has given back.
(2) share_ratio: GPU time over time, in looks in which it had any, each minute by itself; p95.
(3) host_mem_bytes: the most that its processes were seen with: what each has alone, and the largest
    part that one of them shares.
(4) cpu_cores: processor time over time, each minute by itself; p95.
"""

from __future__ import annotations

import contextlib
import enum
import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from harp.daemon.picture import Picture
from harp.daemon.spread import Spread
from harp.estimator.job import Job, Outcome, Run
from harp.model import Tenant, Use
from harp.units import PPM

__all__ = ["End", "How", "Recorder", "Seen", "key_of", "owner_of"]

_MINUTE_S = 60.0
#: a minute that its end cuts short counts if it is at least so long, or the only one
_PART_S = 20.0
#: refused so shortly before its end, it ended for that
_SOON_S = 60.0
#: at least so much was asked for when it was refused, if nobody said how much
_GRANULE_BYTES = 2 << 20
#: so much of what it may have at most is all of it
_ALL = 0.97
#: signals by which a program ends itself, out of memory or not
_OWN = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
#: what Kubernetes puts behind a name: of a replica set and a pod, of a schedule, an ordinal
_GENERATED = re.compile(
    r"(?:-[bcdf-hj-np-tv-xz24-9]{8,10})?-[bcdf-hj-np-tv-xz24-9]{5}$|-\d{8,}(?:-[a-z0-9]{5})?$|-\d{1,4}$"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A tenant at a look: totals since its begin."""

    at_s: float  #: wall clock
    mem_bytes: int = 0  #: held of one device, and code and heaps; of several the most
    peak_bytes: int = 0  #: the arbiter's high-water, of the same
    unleased_bytes: int = 0  #: code, heaps, local memory
    used_ns: Mapping[str, int] = field(default_factory=dict)  #: {device: GPU time}
    denials: int = 0
    host_bytes: int | None = None  #: None: nobody looked
    cpu_s: float | None = None  #: processor time of those who live and whom they waited for

    @classmethod
    def of(
        cls,
        tenant: Tenant,
        picture: Picture,
        at_s: float,
        host_bytes: int | None = None,
        cpu_s: float | None = None,
    ) -> Seen:
        """What the arbiter says of a tenant, and /proc of its processes."""
        uses = {u: picture.uses.get((tenant.tenant_id, u), Use()) for u in tenant.device_uuids}
        most = max(uses.values(), key=lambda use: use.peak_bytes + use.unleased_bytes)
        return cls(
            at_s=at_s,
            mem_bytes=max(use.leased_bytes + use.unleased_bytes for use in uses.values()),
            peak_bytes=most.peak_bytes,
            unleased_bytes=most.unleased_bytes,
            used_ns={uuid: use.used_ns for uuid, use in uses.items()},
            denials=sum(use.denials for use in uses.values()),
            host_bytes=host_bytes,
            cpu_s=cpu_s,
        )


class How(enum.Enum):
    """How a tenant came to its end."""

    ENDED = "ended"  #: all its processes did
    REMOVED = "removed"  #: with no process left, or as a container's are
    TAKEN = "taken"  #: removed under living processes
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class End:
    """A tenant's end."""

    at_s: float
    how: How = How.ENDED
    status: int | None = None  #: of its root process: exit status, or the signal, negative


@dataclass(slots=True)
class _Watch:
    """What is known of one that lives. All of it goes into its note."""

    job: Job
    started_s: float
    seen_s: float
    estimated: bool = False  #: its limit is what it was said to need
    limit_bytes: int = 0
    share_ratio: float = 0.0
    peak_bytes: int = 0
    unleased_bytes: int = 0
    host_bytes: int | None = None
    denials: int = 0  #: in all; `denials_seen`: as its present arbiter counts
    denials_seen: int = 0
    denied_s: float = 0.0
    attempted_bytes: int = 0
    #: {device: GPU time when last seen}; a new arbiter counts from 0
    used_ns: dict[str, int] = field(default_factory=dict)
    cpu_s: float | None = None
    minute_s: float = 0.0  #: begin of the present minute
    busy_ns: dict[str, int] = field(default_factory=dict)  #: in it
    busy_s: dict[str, float] = field(default_factory=dict)
    minute_cpu_s: float = 0.0
    looks: int = 0
    mem: Spread = field(default_factory=Spread)
    share: Spread = field(default_factory=Spread)
    host: Spread = field(default_factory=Spread)
    cpu: Spread = field(default_factory=Spread)


class Recorder:
    """Watches every tenant. Times are wall clock, and given."""

    def __init__(self) -> None:
        #: {note's key: what is known}
        self._watched: dict[str, _Watch] = {}

    def begin(self, tenant: Tenant, job: Job, *, estimated: bool = False) -> None:
        """A tenant lives; one that is watched already goes on.

        Args:
            tenant: whose.
            job: what it runs.
            estimated: its memory limit is what it was said to need.
        """
        watch = _Watch(job, tenant.created_s, tenant.created_s, estimated)
        self._watched.setdefault(key_of(tenant), watch)

    def watches(self, tenant: Tenant) -> bool:
        """Whether it does."""
        return key_of(tenant) in self._watched

    def seen_s(self, tenant: Tenant) -> float:
        """When one that is watched was last seen."""
        return self._watched[key_of(tenant)].seen_s

    def job_of(self, tenant: Tenant) -> Job | None:
        """What a living tenant runs; None: not watched."""
        watch = self._watched.get(key_of(tenant))
        return watch.job if watch else None

    def see(self, tenant: Tenant, seen: Seen) -> None:
        """A look at a tenant; of one that is not watched, none."""
        watch = self._watched.get(key_of(tenant))
        if watch is None:
            return
        watch.limit_bytes = tenant.limits.mem_bytes
        watch.share_ratio = tenant.limits.share_ppm / PPM
        passed_s = max(0.0, seen.at_s - watch.seen_s)  # 0: the clock was set back
        _see_memory(watch, seen, passed_s)
        _see_time(watch, seen, passed_s)
        watch.seen_s = max(watch.seen_s, seen.at_s)
        watch.looks += 1
        if not 0 <= seen.at_s - watch.minute_s < _MINUTE_S:
            _close_minute(watch, seen.at_s)

    def denied(self, tenant: Tenant, at_s: float, attempted_bytes: int) -> None:
        """The arbiter refused memory of a device: to one that held and asked for so much in all.

        Of the host's memory: 0. That is in the arbiter's count of refusals, and in none of ours.
        """
        watch = self._watched.get(key_of(tenant))
        if watch is not None and not attempted_bytes:
            watch.denials_seen += 1
        elif watch is not None:
            # The last one counts: frameworks give back what they cache, and ask again.
            watch.attempted_bytes = attempted_bytes
            watch.denied_s = max(watch.started_s, at_s)
            watch.denials += 1
            watch.denials_seen += 1

    def end(self, tenant: Tenant, end: End, device_bytes: int = 0) -> Run | None:
        """A tenant has ended; see() was told its last figures.

        Args:
            tenant: one that is not watched makes no run.
            end: how.
            device_bytes: memory of its device.
        """
        watch = self._watched.pop(key_of(tenant), None)
        return _run(watch, end, device_bytes) if watch else None

    def note_of(self, tenant: Tenant) -> dict[str, str]:
        """What is known of one that is watched, by its key."""
        return {key_of(tenant): _to_note(self._watched[key_of(tenant)])}

    def notes(self) -> dict[str, str]:
        """All that is known of who lives, by key."""
        return {key: _to_note(watch) for key, watch in self._watched.items()}

    def going(self) -> list[Run]:
        """Runs of those who live, as far as they came when last seen."""
        # Of a copy: what makes a run closes its minute.
        return [
            _run(_from_note(text), End(0.0, How.LOST), self._watched[key].job.device_mem_bytes)
            for key, text in self.notes().items()
        ]

    def resume(self, notes: Mapping[str, str], tenants: Iterable[Tenant]) -> dict[str, Run]:
        """Go on where another left off. Who does not live any more was lost: nobody saw its end.

        Args:
            notes: of the other. One that cannot be read says nothing.
            tenants: who lives.
        """
        for key, text in notes.items():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                self._watched.setdefault(key, _from_note(text))
        return self.lost(tenants)

    def lost(self, tenants: Iterable[Tenant]) -> dict[str, Run]:
        """{key: run} of those who live no more, and whose end nobody told."""
        living = {key_of(tenant) for tenant in tenants}
        gone = {key: watch for key, watch in self._watched.items() if key not in living}
        for key in gone:
            del self._watched[key]
        return {
            key: _run(watch, End(watch.seen_s, How.LOST), watch.job.device_mem_bytes)
            for key, watch in gone.items()
        }


def owner_of(labels: Mapping[str, str]) -> str:
    """Who made a pod: as the device plugin was told; else as far as its name tells.

    >>> owner_of({"namespace": "ml", "pod": "train-7f9c6d5b8d-x2x4z", "container": "main"})
    'ml/Pod/train/main'
    """
    if "owner" in labels or "pod" not in labels:
        return labels.get("owner", "")
    stem = _GENERATED.sub("", labels["pod"])
    return "/".join(
        part
        for part in (labels.get("namespace", ""), "Pod", stem, labels.get("container", ""))
        if part
    )


def key_of(tenant: Tenant) -> str:
    """Of its note."""
    # Numbers of tenants come again; (number, time) does not.
    return f"{tenant.tenant_id}@{tenant.created_s!r}"


def _see_memory(watch: _Watch, seen: Seen, passed_s: float) -> None:
    watch.peak_bytes = max(watch.peak_bytes, seen.peak_bytes, seen.mem_bytes - seen.unleased_bytes)
    watch.unleased_bytes = max(watch.unleased_bytes, seen.unleased_bytes)
    watch.mem.add(seen.mem_bytes, passed_s)
    if seen.host_bytes is not None:
        watch.host_bytes = max(watch.host_bytes or 0, seen.host_bytes)
        watch.host.add(seen.host_bytes, passed_s)
    if seen.denials > watch.denials_seen:
        # Not heard of: harpd was away, or the event is on its way. What was asked for is not known.
        watch.denials += seen.denials - watch.denials_seen
        watch.denied_s = max(watch.denied_s, seen.at_s)
        held = watch.peak_bytes + watch.unleased_bytes
        watch.attempted_bytes = max(watch.attempted_bytes, held + _GRANULE_BYTES)
    watch.denials_seen = seen.denials


def _see_time(watch: _Watch, seen: Seen, passed_s: float) -> None:
    if not watch.minute_s:
        watch.minute_s = watch.seen_s
    for device, used_ns in seen.used_ns.items():
        before = watch.used_ns.get(device, 0)
        more = used_ns - before if used_ns >= before else used_ns  # a new arbiter counts from 0
        watch.used_ns[device] = used_ns
        if more > 0 and passed_s > 0:
            watch.busy_ns[device] = watch.busy_ns.get(device, 0) + more
            watch.busy_s[device] = watch.busy_s.get(device, 0.0) + passed_s
    if seen.cpu_s is not None:
        # A process that ended takes its time with it, unless its parent lives and waited for it.
        watch.minute_cpu_s += max(0.0, seen.cpu_s - (watch.cpu_s or 0.0))
        watch.cpu_s = seen.cpu_s


def _close_minute(watch: _Watch, now_s: float) -> None:
    length_s = now_s - watch.minute_s
    if length_s > 0:
        shares = [
            min(1.0, watch.busy_ns[device] / 1e9 / watch.busy_s[device]) for device in watch.busy_ns
        ]
        if shares:
            watch.share.add(max(shares))
        if watch.cpu_s is not None:
            watch.cpu.add(watch.minute_cpu_s / length_s)
    watch.minute_s, watch.minute_cpu_s = now_s, 0.0
    watch.busy_ns, watch.busy_s = {}, {}


def _run(watch: _Watch, end: End, device_bytes: int) -> Run:
    ended_s = max(watch.started_s, watch.seen_s if end.how is How.LOST else end.at_s)
    if watch.looks and (
        ended_s - watch.minute_s >= _PART_S or not (watch.share.weights or watch.cpu.weights)
    ):
        _close_minute(watch, max(ended_s, watch.seen_s))
    peak_bytes = watch.peak_bytes + watch.unleased_bytes
    used = {"duration_s": ended_s - watch.started_s}
    if watch.looks:
        used["gpu_mem_bytes"] = float(peak_bytes)
    if watch.host_bytes is not None:
        used["host_mem_bytes"] = float(watch.host_bytes)
    quantiles: dict[str, float] = {}
    for target, spread in (
        ("gpu_mem_bytes", watch.mem),
        ("share_ratio", watch.share),
        ("host_mem_bytes", watch.host),
        ("cpu_cores", watch.cpu),
    ):
        p50, p95 = spread.quantile(0.5), spread.quantile(0.95)
        if p50 is None or p95 is None:
            continue
        quantiles |= {f"{target}.p50": p50, f"{target}.p95": p95}
        used.setdefault(target, p95)
    outcome = _outcome(watch, end)
    # That it needs what it was said to need is no sign of greed.
    most = (0 if watch.estimated else watch.limit_bytes) or device_bytes
    return Run(
        job=watch.job,
        started_s=watch.started_s,
        ended_s=ended_s,
        outcome=outcome,
        exit_status=end.status,
        used=used,
        quantiles=quantiles,
        mem_limit_bytes=watch.limit_bytes,
        share_ratio=watch.share_ratio,
        attempted_bytes=watch.attempted_bytes,
        elastic=bool(most) and peak_bytes >= _ALL * most and outcome is not Outcome.OOM,
    )


def _outcome(watch: _Watch, end: End) -> Outcome:
    if end.how is How.LOST:
        return Outcome.LOST
    refused = watch.denials > 0 and end.at_s - watch.denied_s <= _SOON_S
    status = end.status
    if status is not None and 128 < status <= 128 + 64:
        status = 128 - status  # a shell says so of its program
    if status is None:
        if end.how is How.TAKEN:
            return Outcome.KILLED
        return Outcome.OOM if refused else Outcome.DONE
    if status == 0:
        return Outcome.DONE
    if status < 0 and -status not in _OWN:
        return Outcome.KILLED
    if refused:
        return Outcome.OOM
    return Outcome.KILLED if status < 0 else Outcome.FAILED


def _to_note(watch: _Watch) -> str:
    plain = {name: getattr(watch, name) for name in _PLAIN}
    for name in _SPREADS:
        plain[name] = list(getattr(watch, name).weights.items())
    return json.dumps({"job": asdict(watch.job), **plain})


def _from_note(text: str) -> _Watch:
    told = json.loads(text)
    job = told.pop("job")
    job["numbers"] = tuple((str(name), float(value)) for name, value in job["numbers"])
    job["labels"] = tuple((str(name), str(value)) for name, value in job["labels"])
    watch = _Watch(Job(**job), told.pop("started_s"), told.pop("seen_s"))
    for name in _SPREADS:
        rungs = {int(rung): float(weight) for rung, weight in told.pop(name)}
        setattr(watch, name, Spread(rungs))
    return replace(watch, **told)


_SPREADS = ("mem", "share", "host", "cpu")
_PLAIN = tuple(name for name in _Watch.__slots__ if name not in {"job", *_SPREADS})
