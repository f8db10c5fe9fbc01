# SPDX-License-Identifier: Apache-2.0
"""How calls go over a wire: every pointer is decided, every refusal says why, numbers stay."""

from __future__ import annotations

import hashlib

import pytest

from native.api import cuda, marshal, ops
from native.api.model import Cls as Kind
from native.api.model import Function, Gate, fn
from native.api.wire import (
    HANDLES,
    Call,
    Cls,
    Field,
    Hold,
    Item,
    UndecidedError,
    remote_class,
    why_not,
)
from native.gen import emit_wire

CALLS = {c.name: c for c in marshal.CALLS}


def row(remote: str, args: str = "int a", name: str = "cuNew") -> Function:
    return fn(name, Kind.QUERY, Gate.NONE, f"{name} 13000 ({args})", remote=remote)


def decided(remote: str, args: str) -> Call:
    (call,) = marshal.calls_of(row(remote, args))
    return call


def one(remote: str, args: str) -> Field:
    return decided(remote, args).program.fields[-1]


def decide_all(function: Function) -> None:
    """A row, and the structs that it names."""
    for call in marshal.calls_of(function):
        for field in call.program.fields:
            if isinstance(field.type, str) and field.item in (Item.STRUCT, Item.CASE):
                marshal.program_of(field.type)


def test_every_symbol_is_an_op_or_says_why_not() -> None:
    for function in cuda.FUNCTIONS:
        for symbol in function.symbols:
            plain = symbol.plain or symbol.name
            assert (plain in CALLS) == (not why_not(function, symbol)), symbol.name


def test_no_pointer_is_undecided() -> None:
    """What is not in an op's program is a parameter that its row says is not carried."""
    for call in CALLS.values():
        held = {f.name for f in call.program.fields}
        silent = [p for p in call.symbol.params if p.name not in held]
        remote = cuda.function_of(call.name).remote if call.name.startswith("cu") else ""
        assert [p.name for p in silent if f"{p.name}=none" not in remote] == []


@pytest.mark.parametrize(
    ("args", "remote", "what"),
    [
        ("void *p", "sync", "p: void \\* is undecided"),
        ("const void *p", "sync", "p: const void \\* is undecided"),
        ("void **p", "sync", r"p: void \*\* is undecided"),
        ("char *text, int size", "sync", "text: char \\* is undecided"),
        ("const char **name", "sync", "name: const char \\*\\* is undecided"),
        ("CUstream *s", "sync", "s: CUstream \\* is undecided; remedy: new, ref or in"),
        ("CUhostFn f", "async", "f: CUhostFn is undecided; remedy: ticket"),
        ("CUlaunchAttributeValue *v, int id", "sync", "what CUlaunchAttributeValue holds"),
        ("CUmemcpy3DOperand *op", "sync", "CUmemcpy3DOperand_v1.op: a union, and nothing says"),
        ("const CUctxCigParam *p", "sync", "sharedData: void \\* is undecided"),
        ("const CUcheckpointRestoreArgs *p", "sync", "gpuPairs: CUcheckpointGpuPair \\* is undec"),
        ("const int *p, size_t count", "sync", "nothing says what count counts"),
        ("const int *p", "sync p=in[n]", "its length names n, which is not there"),
        ("void *p, CUjit_target t", "sync p=in(t)", "CUjit_target are undecided"),
        ("const int *p", "sync p=in", "p=in is what its type says"),
        ("const int *p", "sync q=out", "no such parameter: q"),
        ("const int *p", "sync p=backwards", "no such decision: backwards"),
        ("int a", "sync a=hint", "a: int cannot be hint"),
        ("int a", "sync always forever", "no such flag: always forever"),
        ("int a", "", "has no remote class; remedy: remote="),
        ("int a", "sometimes", "has no remote class"),
        ("int a", "refused: no", "is refused and says no reason"),
    ],
)
def test_what_is_undecided_is_an_error(args: str, remote: str, what: str) -> None:
    with pytest.raises(UndecidedError, match=what):
        decide_all(row(remote, args))


def test_what_a_type_says_is_derived() -> None:
    assert one("sync", "const CUuuid *id").dir == 1
    assert one("sync", "int *n").dir == 2
    assert one("sync", "CUdeviceptr p").item is Item.DEVICE
    assert one("sync p=hint", "CUdeviceptr p").item is Item.SCALAR
    assert one("sync", "CUstream s").type == "CUstream"
    assert one("sync", "const CUgraphNode *deps, size_t numDeps").by == ("numDeps",)
    made = one("sync p=new", "CUstream *p")
    assert (made.item, made.hold, made.own.name) == (Item.HANDLE, Hold.POINTER, "NEW")


def test_what_counts_comes_before_what_it_counts() -> None:
    """The codec reads fields in order, and a length must be known by then."""
    for call in CALLS.values():
        for program in (call.program, *map(marshal.program_of, marshal.STRUCTS)):
            seen: set[str] = set()
            for field in program.fields:
                needs = {*field.by, field.tag} - {""}
                assert needs <= seen, f"{program.name}.{field.name}"
                seen.add(field.name)


def test_an_asynchronous_call_has_no_output_but_what_the_client_can_foresee() -> None:
    for call in CALLS.values():
        if call.cls is Cls.ASYNC:
            late = [f for f in call.program.fields if f.dir & 2 and f.own.name != "NEW"]
            assert [f.name for f in late if f.item is not Item.FETCHED] == [], call.name


def test_at_most_one_handle_is_made_by_a_call() -> None:
    for call in CALLS.values():
        assert sum(f.own.name == "NEW" for f in call.program.fields) <= 1, call.name


def test_no_path_and_no_host_pointer_is_carried() -> None:
    """Texts on the wire are names in images and bus ids; whoever adds another one looks here."""
    calls = [c for c in CALLS.values() if c.name.startswith("cu")]
    texts = {f.name for c in calls for f in c.program.fields if f.length.name == "TEXT"}
    assert texts == {"name", "pciBusId"}
    for function in cuda.FUNCTIONS:
        paths = [
            p for s in function.symbols for p in s.params if "ile" in p.name or "ath" in p.name
        ]
        if paths:
            assert remote_class(function) in (Cls.LOCAL, Cls.REFUSED), function.name


def test_calls_before_3_2_are_refused_where_newer_ones_are_there() -> None:
    old = next(s for s in cuda.SYMBOLS if s.name == "cuMemAlloc")
    assert "32 bits" in why_not(cuda.function_of("cuMemAlloc"), old)
    assert not any("CUdeviceptr_v1" in p.type for c in CALLS.values() for p in c.symbol.params)


# --- numbers ------------------------------------------------------------------------------------

#: The first so many lines of ops.lock, by their digest. Longer lists may be frozen here; nothing
#: that was frozen may change: programs, traces and other HARPs go by these numbers.
FROZEN = (382, "835ae9e796750351")
FROZEN_HANDLES = (19, "37914dfcc0085e58")


def digest(pairs: list[tuple[str, int]]) -> str:
    return hashlib.sha256("\n".join(f"{name} {n}" for name, n in pairs).encode()).hexdigest()[:16]


def test_numbers_of_ops_are_for_good() -> None:
    count, want = FROZEN
    known = ops.parse(ops.LOCK.read_text())
    assert digest(list(known.items())[:count]) == want


def test_numbers_of_handle_kinds_are_for_good() -> None:
    count, want = FROZEN_HANDLES
    assert digest([(name, i) for i, name in enumerate(HANDLES, 1)][:count]) == want


def test_new_ops_get_numbers_after_all_others_and_gone_ones_keep_theirs() -> None:
    known = {"cuGone": 64, "cuOld": 70}
    made = ops.append(known, (decided("sync", "int a"),))
    assert list(made.items()) == [("cuGone", 64), ("cuOld", 70), ("cuNew", 71)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("cuA 64\ncuB 64\n", "cuB 64 after 64"),
        ("cuA 65\ncuB 64\n", "cuB 64 after 65"),
        ("cuA 64\ncuA 65\n", "cuA has two numbers"),
        ("cuA 63\n", "cuA 63 after 63"),
        ("cuA 65536\n", "cuA 65536 after"),
    ],
)
def test_a_lock_with_a_reused_number_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ops.parse(text)


def test_hash_changes_with_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = emit_wire.describe()
    assert hashlib.sha256(before.encode()).digest() == emit_wire.table_hash()
    call = marshal.CALLS[0]
    monkeypatch.setattr(emit_wire, "CALLS", marshal.CALLS[1:])
    assert emit_wire.describe() != before
    other = Call(call.symbol, Cls.CACHED, call.program)
    monkeypatch.setattr(emit_wire, "CALLS", (other, *marshal.CALLS[1:]))
    assert emit_wire.describe() != before
