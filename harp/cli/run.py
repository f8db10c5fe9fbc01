# SPDX-License-Identifier: Apache-2.0
"""`harp run`: become the program, as a tenant.

This process makes the grant (folder, listening socket, limits at harpd) and then execs CMD: same
pid, same terminal, same signals, and the exit status is CMD's own. Should it fail before, it exits
as env(1) does: 125 HARP's own failure, 126 CMD cannot be run, 127 CMD is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import click

from harp.api.v1 import control_pb2 as pb
from harp.cli.environment import as_given
from harp.cli.output import fail, limit_options, progress
from harp.cli.program import locate, obstacle
from harp.cli.start import connect_or_start
from harp.errors import HarpError
from harp.inject import FROM_DAEMON, Backing, driver_backing, shim_dir, soft_dir, tenant_env
from harp.model import Limits, Policy, TenantClass
from harp.native import find
from harp.rundir import check_socket, make_user_dir
from harp.units import format_percent, format_size

__all__ = ["run"]

_FAILED, _CANNOT_RUN, _NOT_FOUND = 125, 126, 127
_STALE_S = 60.0
_BACKLOG = 128
_POLICIES = {
    None: pb.POLICY_UNSPECIFIED,
    Policy.WARN.value: pb.POLICY_WARN,
    Policy.STOP.value: pb.POLICY_STOP,
    Policy.KILL.value: pb.POLICY_KILL,
}
_CLASS_OF = {
    TenantClass.STANDARD.label: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY.label: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT.label: pb.TENANT_CLASS_BEST_EFFORT,
}


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option(
    "--gpu",
    default="",
    metavar="I|UUID[,...]",
    help="Device or devices, by index or start of the UUID; CMD sees them in this order."
    " Default: the freest one.",
)
@limit_options
@click.option(
    "--no-gang",
    is_flag=True,
    help="With several GPUs: turns on one do not wait for those on the others.",
)
@click.option(
    "--oversubscribe/--no-oversubscribe",
    default=False,
    help="Let memory leave the GPU while others have it: limits of such tenants need not fit"
    " together. Where they do not, they take turns of seconds, and --share is of those.",
)
@click.option("--name", default="", help="Name shown by ps and top.")
@click.option(
    "--policy",
    type=click.Choice([p.value for p in Policy]),
    default=None,
    help="What to do with processes of CMD that evade HARP.",
)
@click.option(
    "--remote",
    default="",
    metavar="HOST:PORT[,...]|POOL",
    help="GPUs of another host: of a node, the best of several, or of those that a pool's file"
    " lists (./FILE, or NAME for remote/NAME.pool beside HARP's settings).",
)
@click.option(
    "--dir",
    "client_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="With --remote: the client's folder.  [the one of `harp remote init`]",
)
@click.option(
    "--tls-name",
    default="",
    metavar="NAME",
    help="With --remote: what all nodes' certificates are for; each name in --remote is then all"
    " nodes at its addresses.  [a node's own name]",
)
@click.option(
    "--token",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="With --remote HOST:PORT: a file with the token of a lease that somebody took for CMD. No"
    " certificate is needed, only ca.crt in --dir. The lease is renewed, and not given back.",
)
@click.option("--insecure", is_flag=True, help="With --remote: plaintext, on loopback alone.")
@click.option(
    "--detached",
    is_flag=True,
    help="With --remote: start without a GPU, until `harp remote attach`.",
)
@click.option("--json", "as_json", is_flag=True, help="Say the grant as one JSON line on stderr.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    gpu: str,
    mem: int,
    host_mem: int,
    share: int,
    limit: int,
    klass: str,
    no_gang: bool,
    oversubscribe: bool,
    name: str,
    policy: str | None,
    remote: str,
    client_dir: Path | None,
    tls_name: str,
    token: Path | None,
    insecure: bool,
    detached: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> NoReturn:
    """Run CMD under a grant: -- CMD [ARG]..."""
    if remote:
        _only_local(
            {
                "--host-mem": host_mem,
                "--no-gang": no_gang,
                "--oversubscribe": oversubscribe,
                "--policy": policy,
            }
        )
        if insecure and tls_name:
            raise click.UsageError("--insecure uses no certificates, and --tls-name is one's")
    elif client_dir or tls_name or token or insecure or detached:
        raise click.UsageError(
            "--dir, --tls-name, --token, --insecure and --detached go with --remote"
        )
    env = as_given()
    program = locate(command[0], env)
    if program is None:
        progress(f"harp: {command[0]}: no such program")
        sys.exit(_NOT_FOUND)
    if not os.path.isfile(program) or not os.access(program, os.X_OK):  # noqa: PTH113 - raises not
        progress(f"harp: {command[0]}: cannot be run")
        sys.exit(_CANNOT_RUN)
    why = obstacle(program)
    if remote:
        if why:
            progress(f"harp: warning: {why}; it will find no GPU")
        # A local run shall not wait for the modules of the other kind.
        from harp.cli import run_remote as elsewhere  # noqa: PLC0415

        where = elsewhere.Where(remote, client_dir, insecure, tls_name, token, detached)
        want = elsewhere.wanted(
            Limits(mem, share, limit, TenantClass.of(klass)), gpu=gpu, name=name
        )
        elsewhere.run_remote(where, want, program, command, env, as_json=as_json)
    if why:
        progress(f"harp: warning: {why}; its GPU use is seen by the watchdog, but not limited")
    request = pb.CreateTenantRequest(
        name=name,
        gpu=gpu,
        mem_limit_bytes=mem,
        host_limit_bytes=host_mem,
        share_ppm=share,
        limit_ppm=limit,
        tenant_class=_CLASS_OF[klass],
        no_gang=no_gang,
        oversubscribe=oversubscribe,
        policy=_POLICIES[policy],
        root_pid=os.getpid(),
        program=command[0],
    )
    try:
        child_env, reply = _grant(request, env)
    except HarpError as error:
        sys.exit(fail(error, as_json=False, status=_FAILED))
    tenant = reply.tenant
    if as_json:
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
                }
            )
            + "\n"
        )
        sys.stderr.flush()
    _become(program, command, child_env)


def _only_local(given: Mapping[str, object]) -> None:
    """Refuse options that a node does not know for leases."""
    for option, value in given.items():
        if value:
            raise click.UsageError(f"{option} is for GPUs of this host: leases do not have it")


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


def _grant(
    request: pb.CreateTenantRequest, env: Mapping[str, str]
) -> tuple[dict[str, str], pb.CreateTenantReply]:
    """Make the tenant; returns the environment for CMD and what harpd answered."""
    client, started = connect_or_start(env)
    with client:
        info = client.info()
        if started:
            progress(f"harp: started harpd (pid {info.pid}, log {info.log_path})")
        base = make_user_dir(env)
        shim = shim_dir(find(env), base)
        backing = _backing(info, env, base)
        grants = base / "grants"
        grants.mkdir(mode=0o700, exist_ok=True)
        _sweep(grants)
        with _grant_folder(grants, request) as (folder, listening):
            request.grant_dir = str(folder)
            request.ticket = client.deposit(listening)
            reply = client.create(request)
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
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
            sock.bind(str(path))
            sock.listen(_BACKLOG)
            yield folder, sock
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sweep(grants: Path) -> None:
    """Remove the folders of tenants that ended: on their sockets nobody listens any more."""
    now = time.time()
    for folder in grants.iterdir():
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime < _STALE_S:
                continue  # another `harp run` may be at work in it
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                probe.settimeout(0.2)
                try:
                    probe.connect(str(folder / "arbiter.sock"))
                except (ConnectionRefusedError, FileNotFoundError):
                    shutil.rmtree(folder, ignore_errors=True)


def _become(program: Path, command: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    """Exec. Python ignores two signals, and what is ignored stays ignored in CMD: undo that."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(program, list(command), dict(env))  # noqa: S606 - that is what run is for
    except OSError as error:
        progress(f"harp: {program}: {error.strerror}")
        sys.exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN)
