# SPDX-License-Identifier: Apache-2.0
"""What `harp remote keep` is asked and answers: JSON lines on a unix socket, one each. Pure.

    Hold      -> Held      a lease for a container; the one it has if it asked for the same
    Release   -> Released  it is given back
    Look      -> Looked    all that is held
    anything  -> Refused   an error of harp.errors

A container's folders are named by its key: who asks says no paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harp import errors
from harp.errors import ConfigError, HarpError, WireError
from harp.model import Limits, TenantClass

__all__ = [
    "BOXES",
    "FOLDER",
    "LINE_BYTES",
    "NEAR",
    "SESSIONS",
    "SOCKET",
    "Answer",
    "Device",
    "Held",
    "Hold",
    "Look",
    "Looked",
    "Refused",
    "Release",
    "Released",
    "Request",
    "encode",
    "read_answer",
    "read_request",
]

#: names in HARP's run folder, the same for who asks and who answers
FOLDER = "keep"  # not the pool server's, which sweeps its own (harp/remote/serving.py)
BOXES = f"{FOLDER}/boxes"
SESSIONS = f"{FOLDER}/sessions"  #: has tokens in it: no container sees it
SOCKET = f"{FOLDER}/keep.sock"
#: in a container's box, which it has mounted
NEAR = "near.sock"
LINE_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_NAME_CHARS = 600  #: a namespace, a pod and a container at their longest, and slashes


@dataclass(frozen=True, slots=True)
class Hold:
    """A lease for a container."""

    key: str  #: names its folders; the same at every start
    name: str  #: for people
    mem_ppm: int  #: part of its GPU's memory, one context included
    limits: Limits  #: its mem_bytes: a lower limit than the part; 0: none


@dataclass(frozen=True, slots=True)
class Release:
    """No container has this key any more."""

    key: str


@dataclass(frozen=True, slots=True)
class Look:
    """What is held?"""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU of a lease."""

    uuid: str
    name: str
    software: bool
    mem_limit_bytes: int
    share_ppm: int
    limit_ppm: int


@dataclass(frozen=True, slots=True)
class Held:
    """A container's lease, or why it has none at present."""

    key: str
    name: str
    node: str = ""  #: "": none
    endpoint: str = ""
    lease: str = ""
    devices: tuple[Device, ...] = ()
    sessions: int = 0  #: processes that use it
    why: str = ""  #: there is none, or programs get no session


@dataclass(frozen=True, slots=True)
class Released:
    """Whether there was one."""

    was: bool


@dataclass(frozen=True, slots=True)
class Looked:
    """All that is held, by key."""

    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """What was asked was not done."""

    error: HarpError


Request = Hold | Release | Look
Answer = Held | Released | Looked | Refused


def encode(message: Request | Answer) -> bytes:
    """One line."""
    said: dict[str, object]
    match message:
        case Hold(key, name, mem_ppm, limits):
            plain = asdict(limits) | {"tenant_class": limits.tenant_class.label}
            said = {"key": key, "name": name, "mem_ppm": mem_ppm, "limits": plain}
        case Refused(error):
            kind = next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
            said = {"kind": kind, "text": error.message, "hint": error.hint}
        case _:
            said = asdict(message)
    return json.dumps({type(message).__name__.lower(): said}).encode() + b"\n"


def read_request(line: bytes) -> Request:
    """What is asked.

    Raises:
        WireError: nothing that is known here.
        ConfigError: a key or a name that is none.
    """
    match _only(line):
        case "hold", said:
            with _reading():
                limits = dict(said["limits"])
                limits["tenant_class"] = TenantClass.of(limits["tenant_class"])
                hold = Hold(
                    _key(said["key"]), str(said["name"]), int(said["mem_ppm"]), Limits(**limits)
                )
            if not hold.name.isprintable() or len(hold.name) > _NAME_CHARS:
                raise ConfigError("the name of a container is none", "printable characters")
            return hold
        case "release", said:
            with _reading():
                return Release(_key(said["key"]))
        case "look", _:
            return Look()
        case what, _:
            raise WireError(f"{what!r} is unknown here", _VERSIONS)


def read_answer(line: bytes) -> Held | Released | Looked:
    """What was answered.

    Raises:
        HarpError: it was refused, so; WireError: it is no answer.
    """
    match _only(line):
        case "held", said:
            with _reading():
                return _held(said)
        case "released", said:
            with _reading():
                return Released(bool(said["was"]))
        case "looked", said:
            with _reading():
                return Looked(tuple(map(_held, said["held"])))
        case "refused", said:
            with _reading():
                kind = getattr(errors, str(said["kind"]), HarpError)
                text, hint = str(said["text"]), str(said["hint"])
            if not (isinstance(kind, type) and issubclass(kind, HarpError)):
                kind = HarpError
            raise kind(text, hint)
        case what, _:
            raise WireError(f"{what!r} is no answer", _VERSIONS)


_VERSIONS = "run the plugin and `harp remote keep` of the same version"


class _reading:  # noqa: N801 - a word of this module
    """Whatever is wrong with what was said is a WireError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise WireError(f"not understood: {type(error).__name__}: {error}", _VERSIONS)


def _only(line: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict) or len(said) != 1:
        raise WireError("that is no line of this protocol", _VERSIONS)
    ((word, rest),) = said.items()
    if not isinstance(rest, dict):
        raise WireError(f"{word!r} without an object", _VERSIONS)
    return str(word), rest


def _key(said: object) -> str:
    if not isinstance(said, str) or not _KEY.fullmatch(said):
        raise ConfigError(f"the key {str(said)[:80]!r} is none", "letters, digits and dashes")
    return said


def _held(said: Mapping[str, Any]) -> Held:
    devices = tuple(Device(**device) for device in said["devices"])
    return Held(**{**said, "devices": devices})
