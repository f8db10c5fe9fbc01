# SPDX-License-Identifier: Apache-2.0
"""COVERAGE.md: what of the driver API is described, intercepted, charged and implemented."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable

from native.api import charges, cuda, nvml, soft, wire
from native.api.marshal import CALLS
from native.api.model import TIME_GATES, Charge, Cls, Function, Gate
from native.gen.output import Target

Test = Callable[[Function], bool]


def _names(rows: Iterable[Function]) -> str:
    text = ", ".join(row.name for row in rows) or "none"
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)


def _wrap(text: str) -> str:
    flat = " ".join(text.split())
    return textwrap.fill(flat, width=100, break_long_words=False, break_on_hyphens=False)


def _count(rows: Iterable[Function]) -> tuple[int, int]:
    listed = list(rows)
    return len(listed), sum(len(row.symbols) for row in listed)


def _classes(have: frozenset[str]) -> str:
    lines = []
    for cls in Cls:
        rows = [row for row in cuda.FUNCTIONS if row.cls is cls]
        gated = sum(row.gate is not Gate.NONE for row in rows)
        symbols = [s for row in rows for s in row.symbols]
        done = sum(s.name in have or s.plain in have for s in symbols)
        lines.append(f"| {cls.value} | {len(rows)} | {len(symbols)} | {gated} | {done} |")
    return "\n".join(lines)


def _gates() -> str:
    told: dict[Gate, str] = {
        Gate.NONE: "a jump to the driver",
        Gate.PROC_ADDRESS: "hook: answers with our own entries",
        Gate.CTX_CREATE: "hook: leases the context's overhead",
        Gate.CTX_DESTROY: "hook: gives it back",
        Gate.MEM_ALLOC: "hook: leases memory",
        Gate.MEM_FREE: "hook: gives it back",
        Gate.TRACK: "hook: follows references to memory charged elsewhere",
        Gate.REFUSE: "hook: NOT_SUPPORTED for a tenant with a memory limit",
        Gate.KERNEL: "hook: asks what local memory a graph's kernels need",
        Gate.TOUCH: "hook: waits until memory that is off the device is back",
        Gate.STAY: "hook: memory that may leave the device stays there for good",
        Gate.SEEN: "hook: answers of memory that may leave the device as of any other, or refuses",
        Gate.CAPTURE: "hook: counts captures under way",
        Gate.STREAM: "hook: the time gate forgets the stream",
        Gate.CALLBACK: "hook: the program's function runs as if inside the driver: nothing is gated there",
        Gate.INFO: "hook: the tenant's own numbers",
        Gate.LAUNCH: "time gate",
        Gate.GRAPH_LAUNCH: "time gate",
        Gate.COPY: "time gate",
        Gate.MEMSET: "time gate",
    }
    lines = []
    for gate in Gate:
        names, symbols = _count(row for row in cuda.FUNCTIONS if row.gate is gate)
        lines.append(f"| {gate.value} | {names} | {symbols} | {told[gate]} |")
    return "\n".join(lines)


def _rules() -> str:
    lines = []
    for charge in Charge:
        rule = charges.RULES[charge]
        lines.append(f"| {charge.value} | {rule.amount} | {rule.taken} | {rule.back} |")
    return "\n".join(lines)


def _charged() -> str:
    lines = []
    for row in sorted((r for r in cuda.FUNCTIONS if r.charge), key=lambda r: r.name):
        assert row.charge is not None
        hook = "hook" if row.gate is not Gate.NONE else f"jump: {row.why}"
        if row.gate is Gate.REFUSE:
            hook = "refused to tenants with a memory limit"
        lines.append(f"| {row.name} | {row.charge.value} | {hook} |")
    return "\n".join(lines)


def _cuda_calls() -> list[wire.Call]:
    return [call for call in CALLS if call.name.startswith("cu")]


def _remote() -> str:
    told: dict[wire.Cls, str] = {
        wire.Cls.ASYNC: "queued; a failure is latched and told at the next call that waits",
        wire.Cls.SYNC: "a round trip",
        wire.Cls.CACHED: "answered by the client from what it knows, else a round trip",
        wire.Cls.LOCAL: "done by the client, never on the wire",
        wire.Cls.REFUSED: "refused, with the reason below",
    }
    lines = []
    for cls in wire.Cls:
        names, _ = _count(row for row in cuda.FUNCTIONS if wire.remote_class(row) is cls)
        listed = sum(call.cls is cls for call in _cuda_calls())
        lines.append(f"| {cls.value} | {names} | {listed} | {told[cls]} |")
    return "\n".join(lines)


def _remote_names() -> str:
    parts = []
    for cls in (wire.Cls.ASYNC, wire.Cls.SYNC, wire.Cls.CACHED):
        rows = [row for row in cuda.FUNCTIONS if wire.remote_class(row) is cls]
        parts.append(f"**{cls.value}**: {_names(rows)}.")
    return "\n\n".join(_wrap(part) for part in parts)


def _not_remote() -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in cuda.FUNCTIONS:
        cls = wire.remote_class(row)
        if cls in (wire.Cls.LOCAL, wire.Cls.REFUSED):
            key = (cls.value, row.remote.partition(": ")[2])
            reasons.setdefault(key, []).append(row.name)
    return "\n".join(
        f"| {cls} | {why} | {', '.join(names)} |" for (cls, why), names in sorted(reasons.items())
    )


def emit() -> str:
    """The whole page."""
    have = soft.implemented()
    rows = cuda.FUNCTIONS
    versioned = sum(s.since > 0 for s in cuda.SYMBOLS)
    twins = sum(s.plain in have and s.name not in have for s in cuda.SYMBOLS)
    allocs, _ = _count(r for r in rows if r.cls is Cls.ALLOC)
    jumps, _ = _count(r for r in rows if r.cls is Cls.ALLOC and r.gate is Gate.NONE)
    refused, _ = _count(r for r in rows if r.cls is Cls.ALLOC and r.gate is Gate.REFUSE)
    timed, timed_symbols = _count(r for r in rows if r.gate in TIME_GATES)
    nvml_have = nvml.implemented()
    return f"""
# What is covered

CUDA driver API {cuda.VERSION // 1000}.{cuda.VERSION % 1000 // 10}: {len(rows)} functions, {len(cuda.SYMBOLS)} exported symbols, {versioned} rows of cuGetProcAddress.
NVML: {len(nvml.SYMBOLS)} functions, {sum(f.params is not None for f in nvml.FUNCTIONS)} of them with prototypes, {len(nvml_have)} implemented by the software GPU.

- Time gate: {timed} functions ({timed_symbols} symbols).
- Memory: {allocs} functions allocate, and each has a charge rule; {allocs - jumps - refused} of them are hooked, {refused} are refused to tenants with a memory limit, {jumps} are jumps with a reason.
- Software GPU: {len(have)} symbols by hand, {twins} per-thread twins of them generated, {len(cuda.SYMBOLS) - len(have) - twins} answer an error and log their name once.
- Remote: {len(_cuda_calls())} ops ({len(CALLS) - len(_cuda_calls())} more are HARP's own, native/api/session.py); {sum(bool(wire.why_not(r, s)) for r in rows for s in r.symbols)} symbols are not on the wire, each with its reason; the rest are per-thread twins of ops.

## By class

| class | functions | symbols | intercepted functions | symbols in the software GPU |
|---|---|---|---|---|
{_classes(have)}

## By gate

| gate | functions | symbols | what libharp does |
|---|---|---|---|
{_gates()}

## What is charged, when, until when

By native/api/charges.py. (*): not to be known inside the process; harpd's reconcile sees it by what
the device says of each process, a second later.

| rule | how much | charged | given back |
|---|---|---|---|
{_rules()}

| function | rule | by |
|---|---|---|
{_charged()}

## Remote

Undecided pointers: 0; with one, nothing is generated. Ops are symbols: versions of a function that
are marshalled differently have one each, those from before CUDA 3.2 (32-bit addresses) none.

| class | functions | ops | what happens |
|---|---|---|---|
{_remote()}

{_remote_names()}

| not on the wire | why | functions |
|---|---|---|
{_not_remote()}

## Symbols the software GPU implements

{textwrap.fill(", ".join(sorted(have)) or "none", width=100, break_long_words=False)}

## NVML functions the software GPU implements

{textwrap.fill(", ".join(sorted(nvml_have)) or "none", width=100, break_long_words=False)}
"""


TARGETS: tuple[Target, ...] = (Target("api/COVERAGE.md", emit, "native/gen/emit_coverage.py"),)
