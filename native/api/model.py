# SPDX-License-Identifier: Apache-2.0
"""The shape of a row: types, functions and their ABI versions. Data only; the emitters read it.

Rows are written as short text and parsed here, so that a row reads like the thing it describes:

    fn("cuMemAlloc", Cls.ALLOC, Gate.MEM_ALLOC, '''
        cuMemAlloc    2000 (CUdeviceptr_v1 *dptr, unsigned int bytesize)
        cuMemAlloc_v2 3020 (CUdeviceptr *dptr, size_t bytesize)''')

One line per symbol: exported name, the CUDA version from which cuGetProcAddress answers it (`-`:
never, dlsym only), then `ptsz=V` or `ptds=V` if there is a per-thread-default-stream twin (V as
above), then the C parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Cls(Enum):
    """What a function does to the device, as far as limits are concerned."""

    QUERY = "query"  # reads; no effect on memory or time
    ALLOC = "alloc"  # may make device (or pinned, or pool) memory
    FREE = "free"  # gives such memory back
    COPY = "copy"  # moves or fills bytes
    LAUNCH = "launch"  # makes the device (or a host function) run
    SYNC = "sync"  # waits, orders or records
    CTX = "ctx"  # makes, ends or switches contexts
    OTHER = "other"


class Gate(Enum):
    """What libharp does with a call before the driver sees it."""

    NONE = "none"  # a bare jump to the driver
    PROC_ADDRESS = "proc_address"
    CTX_CREATE = "ctx_create"  # leases the context's overhead
    CTX_DESTROY = "ctx_destroy"
    MEM_ALLOC = "mem_alloc"  # leases memory
    MEM_FREE = "mem_free"
    TRACK = "track"  # follows references to memory that is charged elsewhere
    REFUSE = "refuse"  # cannot be charged: a tenant with a memory limit gets NOT_SUPPORTED
    INFO = "info"  # answers with the tenant's own numbers
    STREAM = "stream"  # the time gate forgets a stream
    KERNEL = "kernel"  # changes the kernels of a graph: their frames are charged when it runs
    TOUCH = "touch"  # names memory that may be off the device: waits until it is back
    STAY = "stay"  # has memory that may leave the device stay there for good
    SEEN = "seen"  # answers of such memory as of any other, or refuses
    CAPTURE = "capture"  # begins or ends a capture: no context may be synchronised meanwhile
    CALLBACK = "callback"  # the program's function runs inside the driver: nothing is gated there
    LAUNCH = "launch"  # the time gate ...
    GRAPH_LAUNCH = "graph_launch"
    COPY = "copy"
    MEMSET = "memset"  # ... up to here


class Charge(Enum):
    """How what a function takes is charged; charges.py says how much, when, and until when."""

    LINEAR = "linear"
    PITCH = "pitch"
    MANAGED = "managed"
    ARRAY = "array"
    PHYSICAL = "physical"
    POOL = "pool"
    GRAPH = "graph"
    CONTEXT = "context"
    CODE = "code"
    LIMIT = "limit"
    HOST = "host"
    MAPPING = "mapping"  # a reference to memory that is charged elsewhere
    FOREIGN = "foreign"  # memory that another interface made
    NOTHING = "nothing"  # takes no memory itself; the row says why


#: Gates that all pass through the same time gate; the others have a hand-written hook per symbol.
TIME_GATES = frozenset({Gate.LAUNCH, Gate.GRAPH_LAUNCH, Gate.COPY, Gate.MEMSET})

NOT_SUPPORTED = 801  # CUDA_ERROR_NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class Param:
    """One C parameter."""

    name: str
    type: str  # "const void *": pointers keep their star at the end

    @property
    def decl(self) -> str:
        """As C writes it."""
        return self.type + self.name if self.type.endswith("*") else f"{self.type} {self.name}"


@dataclass(frozen=True, slots=True)
class Symbol:
    """One exported symbol: an ABI version of a function, or its per-thread twin."""

    name: str
    since: int  # first CUDA version whose cuGetProcAddress answers it; 0: dlsym only
    params: tuple[Param, ...]
    plain: str = ""  # per-thread twins: the symbol they are a twin of

    @property
    def per_thread(self) -> bool:
        """NULL means the calling thread's own default stream."""
        return bool(self.plain)

    @property
    def args(self) -> str:
        """The parameter list in C."""
        return ", ".join(p.decl for p in self.params) or "void"

    @property
    def call(self) -> str:
        """The argument list in C."""
        return ", ".join(p.name for p in self.params)


@dataclass(frozen=True, slots=True)
class Function:
    """One row: a function under the name that cuGetProcAddress knows."""

    name: str
    cls: Cls
    gate: Gate
    symbols: tuple[Symbol, ...]
    fail: int = NOT_SUPPORTED  # what the software GPU answers until it implements it
    ret: str = "CUresult"
    charge: Charge | None = None  # of all that allocate
    why: str = ""  # of what allocates and is a bare jump all the same
    remote: str = ""  # how it goes over a wire, or why it does not: wire.py reads it


@dataclass(frozen=True, slots=True)
class Type:
    """One C type. `kind` is alias, handle, callback, enum, struct or union."""

    kind: str
    name: str
    body: str = ""  # alias: the type; handle: its struct tag; struct, union: members in C
    members: tuple[tuple[str, int], ...] = ()  # enum: in order, values written out
    size: int = 0  # struct, union: bytes on LP64
    wire: str = ""  # struct, union: what its members' types do not say: wire.py reads it


@dataclass(frozen=True, slots=True)
class Const:
    """One preprocessor constant."""

    name: str
    value: str


_SYMBOL = re.compile(r"(\w+)\s+(\d+|-)(?:\s+(ptsz|ptds)=(\d+|-))?\s*\(([^)]*)\)")
_PARAM = re.compile(r"^(.*?)(\w+)$", re.DOTALL)


def _version(text: str) -> int:
    return 0 if text == "-" else int(text)


def params(text: str) -> tuple[Param, ...]:
    """Parse a C parameter list."""
    out = []
    for part in (" ".join(p.split()) for p in text.split(",")):
        if part in ("", "void"):
            continue
        match = _PARAM.match(part)
        if match is None:
            raise ValueError(f"not a parameter: {part!r}")
        out.append(Param(match[2], match[1].strip()))
    return tuple(out)


def symbols(text: str) -> tuple[Symbol, ...]:
    """Parse the symbol lines of a row.

    Raises:
        ValueError: when something is left over that is not a symbol line.
    """
    rest = _SYMBOL.sub("", text).strip()
    if rest:
        raise ValueError(f"not a symbol line: {rest!r}")
    out: list[Symbol] = []
    for name, since, twin, twin_since, text_params in _SYMBOL.findall(text):
        parsed = params(text_params)
        out.append(Symbol(name, _version(since), parsed))
        if twin:
            out.append(Symbol(f"{name}_{twin}", _version(twin_since), parsed, plain=name))
    return tuple(out)


def fn(
    name: str,
    cls: Cls,
    gate: Gate,
    text: str,
    *,
    fail: int = NOT_SUPPORTED,
    ret: str = "CUresult",
    charge: Charge | None = None,
    why: str = "",
    remote: str = "",
) -> Function:
    """Make a row from its text (see the head of this file).

    Raises:
        ValueError: a function allocates and its row does not say how that is charged: so nothing
            can be generated, and built, with a path to memory that nobody thought about.
    """
    if charge is None and (cls is Cls.ALLOC or gate is Gate.CTX_CREATE):
        raise ValueError(
            f"{name} allocates and its row has no charge rule; remedy: charge=Charge.... there "
            "(native/api/charges.py says what each means)"
        )
    if charge is not None and gate is Gate.NONE and not why:
        raise ValueError(
            f"{name} allocates and nothing hooks it; remedy: why=... in its row says why no memory "
            "is missed, or gate=Gate.MEM_ALLOC and a harp_hook in native/src/shim/gate"
        )
    return Function(name, cls, gate, symbols(text), fail, ret, charge, why, remote)


def enum(name: str, text: str) -> Type:
    """`NAME value` pairs separated by commas; every value is written out."""
    members = []
    for part in text.split(","):
        if part.strip():
            key, value = part.split()
            members.append((key, int(value, 0)))
    return Type("enum", name, members=tuple(members))


def struct(name: str, size: int, body: str, wire: str = "") -> Type:
    """Members in C, and the size that the generated header asserts."""
    return Type("struct", name, body.strip(), size=size, wire=wire)


def union(name: str, size: int, body: str, wire: str = "") -> Type:
    """Members in C, and the size that the generated header asserts."""
    return Type("union", name, body.strip(), size=size, wire=wire)


def alias(name: str, of: str) -> Type:
    """Another name for a type."""
    return Type("alias", name, of)


def aliases(text: str) -> tuple[Type, ...]:
    """`NAME TYPE` lines."""
    return tuple(alias(*line.split(maxsplit=1)) for line in text.strip().splitlines())


def handles(text: str) -> tuple[Type, ...]:
    """`NAME tag` lines: pointers to structs that nobody sees into."""
    rows = (line.split() for line in text.strip().splitlines())
    return tuple(Type("handle", name, tag) for name, tag in rows)


def callback(name: str, ret: str, args: str) -> Type:
    """A pointer to function."""
    return Type("callback", name, f"{ret}({args})")


def consts(text: str) -> tuple[Const, ...]:
    """`NAME value` lines."""
    return tuple(Const(*line.split(maxsplit=1)) for line in text.strip().splitlines())
