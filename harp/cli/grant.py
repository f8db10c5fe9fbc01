# SPDX-License-Identifier: Apache-2.0
"""A grant of this host's harpd: folder, listening socket, and what CMD's environment needs."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.cli.output import progress
from harp.cli.start import connect_or_start
from harp.client import Client
from harp.estimator.job import Need
from harp.inject import FROM_DAEMON, Backing, driver_backing, shim_dir, soft_dir, tenant_env
from harp.model import TenantClass
from harp.native import find
from harp.profile import make as make_profile
from harp.rundir import check_socket, make_user_dir, sweep
from harp.units import format_percent, format_size

__all__ = ["connected", "describe", "grant", "say_grant"]

_BACKLOG = 128


def describe(reply: pb.CreateTenantReply) -> str:
    """One line on what was granted."""
    tenant = reply.tenant
    each = " each" if len(reply.devices) > 1 else ""
    where = ",".join(str(d.index) for d in reply.devices)
    parts = [f"tenant {tenant.name} on GPU {where}"]
    if tenant.mem_limit_bytes:
        parts.append(f"memory {format_size(tenant.mem_limit_bytes)}{each}")
    if tenant.host_limit_bytes:
        parts.append(f"pinned host memory {format_size(tenant.host_limit_bytes)}")
    if tenant.share_ppm:
        parts.append(f"share {format_percent(tenant.share_ppm)}{each}")
    if tenant.oversubscribe:
        parts.append("oversubscribing")
    if each and tenant.no_gang:
        parts.append("not ganged")
    return ", ".join(parts)


@contextlib.contextmanager
def connected(env: Mapping[str, str]) -> Iterator[tuple[Client, pb.GetInfoReply]]:
    """A harpd, started where none runs, and who it is."""
    client, started = connect_or_start(env)
    with client:
        info = client.info()
        if started:
            progress(f"harp: started harpd (pid {info.pid}, log {info.log_path})")
        yield client, info


def grant(
    client: Client,
    info: pb.GetInfoReply,
    request: pb.CreateTenantRequest,
    env: Mapping[str, str],
    *,
    made: Callable[[Path, pb.CreateTenantReply], None] | None = None,
) -> tuple[dict[str, str], pb.CreateTenantReply]:
    """Make the tenant; returns the environment for CMD and what harpd answered.

    Args:
        client: of harpd.
        info: who harpd is.
        request: for the tenant.
        env: for CMD.
        made: is called with the grant's folder before CMD can begin.
    """
    base = make_user_dir(env)
    shim = shim_dir(find(env), base)
    backing = _backing(info, env, base)
    grants = base / "grants"
    grants.mkdir(mode=0o700, exist_ok=True)
    sweep(grants, "arbiter.sock", socket.SOCK_SEQPACKET)
    with _grant_folder(grants, request) as (folder, listening):
        request.grant_dir = str(folder)
        request.ticket = client.deposit(listening)
        reply = client.create(request)
        if made:
            made(folder, reply)
    child = tenant_env(env, grant_dir=folder, shim=shim, backing=backing)
    for key in FROM_DAEMON:
        child.pop(key, None)
        if key in reply.env:
            child[key] = reply.env[key]
    if reply.device_count > 1:
        if request.gpu or "CUDA_VISIBLE_DEVICES" not in env:
            # The granted devices are the program's 0, 1, ...; it may use no others.
            child["CUDA_VISIBLE_DEVICES"] = ",".join(d.uuid for d in reply.devices)
        else:
            progress("harp: CUDA_VISIBLE_DEVICES is yours and stays; it must name the granted GPU")
    if reply.device.kind == pb.DEVICE_KIND_SOFTWARE and sys.stderr.isatty():
        progress(f"harp: {describe(reply)} ({reply.device.name}: not a real GPU)")
    return child, reply


def say_grant(reply: pb.CreateTenantReply, needs: Mapping[str, Need]) -> None:
    """A grant, and what it was estimated from, as a JSON line on stderr."""
    tenant = reply.tenant
    sys.stderr.write(
        json.dumps(
            {
                "tenant": tenant.name,
                "pid": tenant.root_pid,
                "gpu": reply.device.index,
                "gpus": [d.index for d in reply.devices],
                "device": reply.device.name,
                "device_uuids": list(tenant.device_uuids),
                "software": reply.device.kind == pb.DEVICE_KIND_SOFTWARE,
                "mem_limit_bytes": tenant.mem_limit_bytes,
                "host_limit_bytes": tenant.host_limit_bytes,
                "share_ppm": tenant.share_ppm,
                "limit_ppm": tenant.limit_ppm,
                "class": TenantClass(tenant.tenant_class).label,
                "gang": not tenant.no_gang,
                "oversubscribe": tenant.oversubscribe,
                "needs": {name: asdict(need) for name, need in needs.items()},
            }
        )
        + "\n"
    )
    sys.stderr.flush()


def _backing(info: pb.GetInfoReply, env: Mapping[str, str], base: Path) -> Backing:
    """The driver libraries CMD's calls end in."""
    if info.kind == pb.DEVICE_KIND_SOFTWARE:
        return soft_dir(find(env), base)
    return driver_backing(env, info.uid, info.cuda_path, info.nvml_path)


@contextlib.contextmanager
def _grant_folder(
    grants: Path, request: pb.CreateTenantRequest
) -> Iterator[tuple[Path, socket.socket]]:
    """A new grant folder with its listening socket; removed again if the grant fails."""
    stem = "".join(c for c in Path(request.name or request.program).name if c.isalnum())[:16]
    folder = grants / f"{stem or 'tenant'}-{secrets.token_hex(4)}"
    path = folder / "arbiter.sock"
    check_socket(path)
    folder.mkdir(mode=0o700)
    try:
        make_profile(folder)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
            sock.bind(str(path))
            sock.listen(_BACKLOG)
            yield folder, sock
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
