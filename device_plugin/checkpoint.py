# SPDX-License-Identifier: Apache-2.0
"""What the plugin must know after a restart, in one file that is whole or not there.

The node's GPUs (so that kubelet gets its list though harpd is away) and the living grants. What
Allocate answered is not in it: that follows from the slots (device_plugin/book.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from device_plugin.book import Cap, Grant, Made
from device_plugin.identity import Owner
from device_plugin.slots import Gpu
from device_plugin.tenants import NodeView
from harp.errors import ConfigError
from harp.model import DeviceKind, Limits, TenantClass

__all__ = ["VERSION", "Checkpoint", "load", "save"]

_log = structlog.get_logger(__name__)
VERSION = 1
#: what comes of reading bytes that are no checkpoint: no text, no JSON, nested without end, other
#: things in it than we write
_NOT_OURS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was known."""

    node: NodeView | None = None  #: as harpd said it, with the GPUs' NUMA nodes
    per_gpu: int = 0  #: slots
    grants: tuple[Grant, ...] = ()


def save(path: Path, checkpoint: Checkpoint, *, sync: bool = True) -> None:
    """Write it: whoever reads sees the one before or this one.

    Args:
        path: the file.
        checkpoint: what is known.
        sync: so too after a power failure. Grants need not: no container and no tenant outlives
            one, and to wait for the disk at every start would cost more than the rest of it.
    """
    head = {
        "version": VERSION,
        "per_gpu": checkpoint.per_gpu,
        "node": _node_out(checkpoint.node) if checkpoint.node else None,
    }
    grants = ",\n".join(map(_grant_out, checkpoint.grants))
    text = f'{json.dumps(head)[:-1]}, "grants": [\n{grants}]}}\n'
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    fresh.rename(path)
    if not sync:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> Checkpoint:
    """Read it; empty if there is none.

    One that cannot be read is put aside: a node must not stay without its plugin for it. Kubelet
    says again who has what, at the latest when containers start.

    Raises:
        ConfigError: it was written by a later version, which may have said what we must not lose.
    """
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return Checkpoint()
    try:
        data = json.loads(written.decode())
        version = data["version"]
        if version == VERSION:
            return Checkpoint(
                node=_node_in(data["node"]) if data["node"] else None,
                per_gpu=int(data["per_gpu"]),
                grants=tuple(_grant_in(grant) for grant in data["grants"]),
            )
        later = isinstance(version, int) and version > VERSION
    except _NOT_OURS as error:
        later, version = False, None
        reason = f"{type(error).__name__}: {error}"
    else:
        reason = f"version {version!r}"
    if later:
        raise ConfigError(
            f"{path} is of version {version}, this plugin knows up to {VERSION}",
            "run the later plugin, or remove the file when no pod of this node has a GPU",
        )
    aside = path.with_name(f"{path.name}.bad-{time.time_ns()}")
    with contextlib.suppress(OSError):
        path.rename(aside)
    _log.error("checkpoint_put_aside", path=str(path), now=str(aside), reason=reason)
    return Checkpoint()


def _node_out(node: NodeView) -> dict[str, Any]:
    return {
        "kind": node.kind.value,
        "cuda": str(node.cuda),
        "nvml": str(node.nvml),
        "gpus": [asdict(gpu) for gpu in node.gpus],
    }


def _node_in(data: dict[str, Any]) -> NodeView:
    return NodeView(
        DeviceKind(data["kind"]),
        Path(data["cuda"]),
        Path(data["nvml"]),
        tuple(Gpu(**gpu) for gpu in data["gpus"]),
    )


@functools.lru_cache(maxsize=4096)
def _grant_out(grant: Grant) -> str:
    """As JSON. Kept: at every start all others are as they were."""
    return json.dumps(
        {
            "id": grant.id,
            "ids": sorted(grant.ids),
            "uuids": grant.uuids,
            "limits": _limits_out(grant.limits),
            "owner": asdict(grant.owner) if grant.owner else None,
            "pod_uid": grant.pod_uid,
            "asked": _limits_out(grant.asked) if grant.asked else None,
            "share": _limits_out(grant.share) if grant.share else None,
            "cap": asdict(grant.cap),
            # Its command may hold what is nobody's business, and is needed at its start alone.
            "made": {"image": grant.made.image, "maker": grant.made.maker},
        }
    )


def _limits_out(limits: Limits) -> dict[str, Any]:
    return asdict(limits) | {"tenant_class": limits.tenant_class.label}


def _limits_in(data: dict[str, Any]) -> Limits:
    return Limits(**data | {"tenant_class": TenantClass.of(data["tenant_class"])})


def _grant_in(data: dict[str, Any]) -> Grant:
    asked, share = data.get("asked"), data.get("share")  # plugins before did not write them
    return Grant(
        id=data["id"],
        ids=frozenset(map(str, data["ids"])),
        uuids=tuple(map(str, data["uuids"])),
        limits=_limits_in(data["limits"]),
        owner=Owner(**data["owner"]) if data["owner"] else None,
        pod_uid=data["pod_uid"],
        asked=_limits_in(asked) if asked else None,
        share=_limits_in(share) if share else None,
        cap=Cap(**data.get("cap", {})),  # this and the next: earlier plugins wrote none
        made=Made(**data.get("made", {})),
    )
