# SPDX-License-Identifier: Apache-2.0
"""What is simulated: a device, its arbiter's settings, tenants, and changes on the way. Pure.

A scenario is a TOML or JSON file of the keys below; every key has a default, a range and a
sentence, and an unknown one is an error that names the nearest. Times are in the unit their name
ends in, shares are "30%" or parts of one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import random
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harp.config import Key, Value, key
from harp.errors import ConfigError, UnitError
from harp.model import TenantClass
from harp.sim.core import POLICIES
from harp.units import parse_percent

__all__ = [
    "LOADS",
    "Change",
    "Scenario",
    "TenantSpec",
    "generate",
    "keys",
    "override",
    "parse",
    "read",
]

#: kinds of program; harp/sim/program.py has one of each
LOADS = ("saturate", "sync", "graph", "request", "copy")
CLASSES = tuple(c.label for c in TenantClass)
TENANTS_MAX = 4096
_MAX_S = 3600.0


def _share_key(default: int, text: str) -> int:
    """A setting that is written "30%" or 0.3, and kept in ppm."""
    info = Key("", default, text)
    field: int = dataclasses.field(default=default, metadata={"key": info, "share": True})
    return field


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """One `[[tenant]]`: a group of `count` tenants that are alike."""

    name: str = key("tenant", "Name; members of a group get -1, -2, ...")
    count: int = key(1, "So many tenants are alike.", low=1, high=TENANTS_MAX)
    processes: int = key(1, "Processes of each; they share one account.", low=1, high=64)
    share: int = _share_key(0, "Guaranteed part of device time; 0: none asked.")
    limit: int = _share_key(0, "Most device time even when alone; 0: none.")
    klass: str = key("standard", "Scheduling class (key: class).", choices=CLASSES)
    load: str = key(
        "saturate",
        "saturate: always more to launch; sync: `queue` launches, wait, think; graph: the same,"
        " each launch one graph of `nodes` kernels; request: arrivals of `rate_hz`, each"
        " `queue` kernels; copy: as saturate, on the copy engine.",
        choices=LOADS,
    )
    kernel_us: float = key(200.0, "Length of a kernel or copy.", low=1, high=1e6)
    jitter: float = key(0.0, "Kernels differ by up to this part, evenly.", low=0, high=0.9)
    queue: int = key(16, "Launches between two waits (sync, graph, request).", low=1, high=100_000)
    nodes: int = key(10, "Kernels in a graph.", low=1, high=100_000)
    think_us: float = key(0.0, "Time between two batches.", low=0, high=1e8)
    rate_hz: float = key(20.0, "Arrivals a second (request).", low=0.001, high=1e5)
    start_s: float = key(0.0, "When its processes come.", low=0, high=_MAX_S)
    end_s: float = key(0.0, "When they are killed; 0: never.", low=0, high=_MAX_S)


@dataclass(frozen=True, slots=True)
class Change:
    """One `[[change]]`: `harp set` on a group while it runs. -1 and "": as it was."""

    tenant: str = key("", "Name of the group.")
    at_s: float = key(0.0, "When.", low=0, high=_MAX_S)
    share: int = _share_key(-1, "New share.")
    limit: int = _share_key(-1, "New limit.")
    klass: str = key("", "New class (key: class).", choices=("", *CLASSES))


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole file."""

    seconds: float = key(10.0, "Virtual time simulated.", low=0.01, high=_MAX_S)
    seed: int = key(1, "Of all that is random.", low=0, high=2**31 - 1)
    policy: str = key("drr", "The arbiter's policy.", choices=tuple(POLICIES))
    quantum_us: int = key(5000, "The arbiter's quantum.", low=1000, high=50_000)
    burst_us: int = key(50_000, "The arbiter's burst.", low=0, high=1_000_000)
    slice_us: float = key(2000.0, "The device's own slice between contexts.", low=10, high=1e5)
    switch_us: float = key(100.0, "What the device needs to change context.", low=0, high=1e4)
    hop_us: float = key(
        20.0, "One message's way, with the wake-up of who waits for it.", low=0, high=1e4
    )
    tenants: tuple[TenantSpec, ...] = ()
    changes: tuple[Change, ...] = ()


_T = TypeVar("_T", Scenario, TenantSpec, Change)


def keys(kind: type[Scenario | TenantSpec | Change]) -> dict[str, tuple[str, str]]:
    """{key as written: (its legal values, its sentence)} of one table, for help and errors."""
    return {
        _written(field.name): (_legal(field), field.metadata["key"].text)
        for field in dataclasses.fields(kind)
        if field.metadata
    }


def read(path: Path) -> Scenario:
    """Read a scenario file; `.json` is JSON, anything else TOML.

    Raises:
        ConfigError: unreadable, an unknown key, or a value out of range.
    """
    try:
        text = path.read_text()
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the scenario {path}: {error}", "harp sim time --help has an example"
        ) from error
    return parse(tree, str(path))


def parse(tree: object, source: str) -> Scenario:
    """Read a scenario from what a file holds.

    Raises:
        ConfigError: an unknown key, a value out of range, or tenants that contradict each other.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source} holds no table", "write keys and [[tenant]] tables")
    rest = dict(tree)
    tables = {name: rest.pop(name, []) for name in ("tenant", "change")}
    for name, rows in tables.items():
        if not isinstance(rows, list):
            raise ConfigError(f"{name} ({source}) is no list", f"write [[{name}]]")
    tenants = tuple(_table(TenantSpec, row, f"{source}, tenant") for row in tables["tenant"])
    changes = tuple(_table(Change, row, f"{source}, change") for row in tables["change"])
    found = dataclasses.replace(_table(Scenario, rest, source), tenants=tenants, changes=changes)
    _check(found, source)
    return found


def _check(scenario: Scenario, source: str) -> None:
    names = [t.name for t in scenario.tenants]
    if not names:
        raise ConfigError(f"{source} has no tenant", "write a [[tenant]] table")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(f"tenant {twice[0]} ({source}) is there twice", "use `count`, or rename")
    total = sum(t.count for t in scenario.tenants)
    if total > TENANTS_MAX:
        raise ConfigError(
            f"{total} tenants ({source}), at most {TENANTS_MAX}", "lower a tenant's count"
        )
    for change in scenario.changes:
        if change.tenant not in names:
            near = difflib.get_close_matches(change.tenant, names, n=1, cutoff=0.0)
            raise ConfigError(
                f"a change names tenant {change.tenant!r} ({source}), which is not there",
                f"did you mean {near[0]}?" if near else "",
            )
    for tenant in scenario.tenants:
        if 0 < tenant.limit < tenant.share:
            raise ConfigError(
                f"tenant {tenant.name} ({source}) has a share of {tenant.share / 10_000:g}% above"
                f" its limit of {tenant.limit / 10_000:g}%",
                "a limit is the most a tenant gets, a share the least",
            )


def _table(kind: type[_T], row: object, source: str) -> _T:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{row!r} ({source}) is no table", "write keys and values")
    fields = {_written(f.name): f for f in dataclasses.fields(kind) if f.metadata}
    values: dict[str, Value] = {}
    for name, value in row.items():
        field = fields.get(str(name))
        if field is None:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.0)
            raise ConfigError(f"unknown key {name} ({source})", f"did you mean {near[0]}?")
        values[field.name] = _convert(field, value, source)
    return kind(**values)  # type: ignore[arg-type]


def override(base: Scenario, said: Mapping[str, object], source: str) -> Scenario:
    """`base` with some of its own keys changed.

    Raises:
        ConfigError: as parse().
    """
    fields = {f.name: f for f in dataclasses.fields(Scenario)}
    values = {name: _convert(fields[name], value, source) for name, value in said.items()}
    return dataclasses.replace(base, **values)  # type: ignore[arg-type]


def _convert(field: dataclasses.Field[object], value: object, source: str) -> Value:
    if "share" in field.metadata:
        return _share(_written(field.name), value, source)
    info: Key = field.metadata["key"]
    return dataclasses.replace(info, name=_written(field.name)).check(value, source)


def _share(name: str, value: object, source: str) -> int:
    try:
        if isinstance(value, str):
            return parse_percent(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return round(value * 1_000_000)
    except UnitError as error:
        raise ConfigError(f"{name} ({source}): {error.message}", error.hint) from error
    raise ConfigError(
        f"{name} = {value!r} ({source}) is no share", 'write "30%" or a part of one, such as 0.3'
    )


def _written(name: str) -> str:
    return "class" if name == "klass" else name


def _legal(field: dataclasses.Field[object]) -> str:
    info: Key = field.metadata["key"]
    if "share" in field.metadata:
        return '"0.0001%" to "100%", or 0 to 1'
    said = "" if info.default in ("", -1) else f"; default {info.default}"
    return (info.range or "a name") + said


def generate(base: Scenario, count: int) -> Scenario:
    """`base` with `count` tenants of mixed loads, classes and shares; the same for the same seed.

    A third saturates, the rest waits now and then; one in ten is latency-critical and makes
    requests, one in five is best-effort; one in three asks for a share, one in ten has a limit.
    All shares together are at most 80 %.

    Raises:
        ConfigError: too many or too few.
    """
    if not 1 <= count <= TENANTS_MAX:
        raise ConfigError(f"{count} tenants are out of range", f"1 to {TENANTS_MAX}")
    rng = random.Random(f"harp-sim/{base.seed}")  # noqa: S311 - a model
    tenants, left = [], 800_000
    for number in range(count):
        klass = rng.choices(CLASSES, (7, 1, 2))[0]
        load = "request" if klass == "latency" else rng.choice(LOADS[:3])
        share = rng.randint(1, 1 + 1_600_000 // count) if rng.random() < 1 / 3 else 0
        share = min(share, left)
        left -= share
        tenants.append(
            TenantSpec(
                name=f"t{number}",
                share=share,
                limit=min(1_000_000, 2 * share + 50_000) if rng.random() < 0.1 else 0,
                klass=klass,
                load=load,
                kernel_us=float(rng.choice((10, 50, 200, 1000))),
                jitter=0.1,
                queue=rng.choice((1, 4, 16)),
                nodes=rng.choice((5, 20)),
                think_us=0.0 if load == "saturate" else float(rng.choice((0, 500, 5000))),
                rate_hz=float(rng.choice((1, 5, 20))),
            )
        )
    return dataclasses.replace(base, tenants=tuple(tenants))
